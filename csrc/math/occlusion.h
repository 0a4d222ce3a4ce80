// Where a flow can be trusted (Sundaram et al. 2010, Dense Point Trajectories, eq. 5 and 6; the constants as Lai et al.
// 2018 use them). Both tests fail wherever a value is NaN.
#pragma once

#include <torch/headeronly/macros/Macros.h>

namespace legato {

template <typename A>
C10_HOST_DEVICE inline A squared_length(A x, A y) {
  return x * x + y * y;
}

// The forward-backward check of a flow (x, y) and the opposite flow where it points, (back_x, back_y).
template <typename A>
C10_HOST_DEVICE inline bool consistent(A x, A y, A back_x, A back_y) {
  const A gap = squared_length(x + back_x, y + back_y);
  const A allowed = A(0.01) * (squared_length(x, y) + squared_length(back_x, back_y)) + A(0.5);
  return gap - allowed <= A(0);  // a difference, so that two infinities fail as well
}

// Whether the flow (x, y) changes too fast towards its neighbors to the right and below; at the last column and row the
// neighbor is the pixel itself.
template <typename A>
C10_HOST_DEVICE inline bool at_boundary(A x, A y, A right_x, A right_y, A below_x, A below_y) {
  const A slope = squared_length(below_x - x, below_y - y) + squared_length(right_x - x, right_y - y);
  return !(slope <= A(0.01) * squared_length(x, y) + A(0.002));
}

}  // namespace legato
