"""One step at a time: p(x) = p(x_1) p(x_2 | x_1) ..., exact."""
