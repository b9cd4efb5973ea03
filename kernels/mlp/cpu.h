// Multilayer perceptrons of many clients on the CPU, several beside each other, and their
// gradients.
//
//   tower     A_0 = x,  Z_l = A_{l-1} W_l + b_l,  A_l = D_l Z_l,  D_l = (Z_l > 0 ? 1 : slope),
//             u = Z_L  or, with a linear term,  Z_L + x A
//   head      t = u or tanh(u),  n = |t|,  y = u  or  t / max(n, 1e-12)
//   its slope dt = (dy - y <y, dy>) / n, or dy / 1e-12 where n is less,  du = (1 - t^2) dt or dt
//   gradient  G_L = du,  dW_l = A_{l-1}^T G_l,  db_l = sum of the rows of G_l,
//             G_{l-1} = D_{l-1} (G_l W_l^T),  dx = G_1 W_1^T
//             and with the term  dA = x^T G_L,  dx = G_1 W_1^T + G_L A^T
//
// D_l is read off A_l, whose sign is that of Z_l or zero.
#pragma once

#include <cstdint>

#include "kernels/common/isa.h"

namespace fedsyn::mlp {

enum class Head { linear, unit, tanh_unit };
enum class Skip { none, trained, frozen };  // the linear term x A; frozen: there is no dA

// One client's tower: W_1 [widths[0], widths[1]], b_1, W_2, ... one behind the other; behind them
// A [widths[0], widths[layers]] if there is one.
struct Tower {
    std::int64_t layers;
    const std::int64_t* widths;  // [layers + 1]
    const float* params;
    float slope;
    Head head;
    Skip skip;
};

// Its rows; those of x and of the output lie apart, for other towers' columns lie between. What is
// kept for the backward pass are A_1, A_2, ... [rows, width], then n [rows] if there is a
// head.
struct Rows {
    const float* x;
    std::int64_t x_row;
    float* out;
    std::int64_t out_row;
    float* kept;  // null where nothing is
    std::int64_t count;
};

// Floats kept of each row.
inline std::int64_t kept_width(const Tower& tower) {
    std::int64_t total = tower.head == Head::linear ? 0 : 1;
    for (std::int64_t l = 1; l < tower.layers; ++l) total += tower.widths[l];
    return total;
}

// Floats of the layers' parameters, and of all of a tower's.
inline std::int64_t layer_parameters(const Tower& tower) {
    std::int64_t total = 0;
    for (std::int64_t l = 0; l < tower.layers; ++l) {
        total += (tower.widths[l] + 1) * tower.widths[l + 1];
    }
    return total;
}
inline std::int64_t parameters(const Tower& tower) {
    const std::int64_t term = tower.widths[0] * tower.widths[tower.layers];
    return layer_parameters(tower) + (tower.skip == Skip::none ? 0 : term);
}

// Floats from the first on that have a gradient.
inline std::int64_t trained_parameters(const Tower& tower) {
    return tower.skip == Skip::frozen ? layer_parameters(tower) : parameters(tower);
}

// Where a backward pass begins and what it gives; either result may be null.
struct Gradients {
    const float* out;  // rows as those of Rows::out
    float* x;          // rows as those of Rows::x
    float* params;     // [parameters], put there and not added; nothing is where A is frozen
};

// One instruction set's, for the rows [begin, end) of one client's tower.
struct Kernels {
    std::int64_t (*forward_scratch)(const Tower&, bool kept);  // floats
    std::int64_t (*backward_scratch)(const Tower&);
    void (*forward)(const Tower&, const Rows&, std::int64_t begin, std::int64_t end,
                    float* scratch);
    void (*backward)(const Tower&, const Rows&, const Gradients&, std::int64_t begin,
                     std::int64_t end, float* scratch);
};

// Towers beside each other, and all clients' batches: the columns of x, of the output and of the
// parameters are those of the first tower, of the second, ...
struct Network {
    std::int64_t towers;
    const std::int64_t* lengths;  // [towers], widths of each
    const std::int64_t* widths;   // one tower's behind the other's
    const float* params;
    std::int64_t stride;  // floats from one client's parameters to the next's, any number
    float slope;
    Head head;
    Skip skip;
};
struct Batch {
    std::int64_t clients;
    std::int64_t rows;
    const float* x;  // [clients, rows, sum of first widths]
    float* out;      // [clients, rows, sum of last widths]; without a head, backward needs none
    float* kept;     // [clients, rows * sum of kept_width], tower by tower; may be null
};

// A row's output depends on nothing but the row and the parameters.
void forward(const Network& network, const Batch& batch, int threads, Isa isa);

// to_out like the output, to_x like x or null, to_params [clients, sum of parameters] or null,
// whose places of frozen parameters mean nothing. A client's results depend neither on the number
// of threads nor on the other clients.
void backward(const Network& network, const Batch& batch, const float* to_out, float* to_x,
              float* to_params, int threads, Isa isa);

}  // namespace fedsyn::mlp

FEDSYN_KERNELS(mlp::Kernels, kMlpKernels)
