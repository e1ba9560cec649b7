// How hidden units are shared out among vectors.
#pragma once

#include "vectors.h"

namespace bnlstm {
namespace {

// A panel of `units` <= `width` hidden units from `unit` on.
struct Panel {
  int64_t unit;
  int width;  // W, W/2 or W/4
  int units;
};

int64_t panels(int64_t H) {
  int left = static_cast<int>(H % W);
  int small = left == 0 ? 0 : (left > W / 2 && left <= W - W / 4) ? 2 : 1;
  return H / W + small;
}

inline Panel panel(int64_t index, int64_t H) {
  int64_t whole = H / W;
  if (index < whole) return {index * W, W, W};
  int64_t unit = whole * W;
  int left = static_cast<int>(H - unit);
  if (left > W - W / 4) return {unit, W, left};
  if (left > W / 2) {
    if (index == whole) return {unit, W / 2, W / 2};
    return {unit + W / 2, W / 4, left - W / 2};
  }
  int width = left > W / 4 ? W / 2 : W / 4;
  return {unit, width, left};
}

int64_t padded(int64_t H) {
  if (H == 0) return 0;
  Panel last = panel(panels(H) - 1, H);
  return last.unit + last.width;
}

}  // namespace
}  // namespace bnlstm
