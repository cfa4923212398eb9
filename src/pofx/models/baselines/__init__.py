"""What every verdict is held against: the simplest models of p(x), fitted in closed form."""
