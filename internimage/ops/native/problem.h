// What one call of the kernels is about. Mirrored by the ctypes structures in __init__.py: same fields, same order.
#pragma once

#include <cstdint>

enum Storage : int64_t { FLOAT32 = 0, FLOAT64 = 1, BFLOAT16 = 2, FLOAT16 = 3 };

// Deformable convolution, or, with levels, deformable attention: there groups are heads, output pixels are queries
// (h_out is 1), taps are levels * points, the input's levels lie one behind the other (h is 1, w is their sum), and offset
// holds sampling locations, 0 to 1 over a level.
struct DeformableProblem {
    const void* input;        // (n, h, w, groups * depth)
    const void* offset;       // for each (n, h_out, w_out), offset_row apart, and group, offset_group apart: taps pairs (x, y)
    const void* mask;         // likewise taps values, mask_row and mask_group apart
    const void* input_bias;   // (groups * depth), added to every pixel of input; may be null
    const void* offset_bias;  // for each group, offset_bias_group apart, taps pairs, added to every row of offset; may be null
    const void* mask_bias;    // likewise taps values, mask_bias_group apart
    void* output;             // (n, h_out, w_out, groups * depth)
    const void* grad_output;  // like output
    void* grad_input;         // like input, zeroed by the caller; float32 for the half types
    void* grad_offset;        // like offset, grad_offset_row and grad_offset_group apart
    void* grad_mask;          // like mask, grad_mask_row and grad_mask_group apart
    const int64_t* levels;    // (level_count, 2): height and width; may be null
    int64_t storage;          // a Storage
    int64_t offset_storage;   // of offset and its gradient: that of the input, or float32 beside half types
    int64_t bias_storage;     // of the biases, which are parameters: float32 beside half types under autocast
    int64_t softmax;          // the mask holds logits
    int64_t remove_center;    // the middle tap is left out
    int64_t n, h, w, h_out, w_out;
    int64_t groups, depth;  // depth: channels of a group
    int64_t level_count, points;  // of attention, else zero; what follows but the distances is of convolution
    int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
    int64_t offset_row, offset_group, mask_row, mask_group;
    int64_t grad_offset_row, grad_offset_group, grad_mask_row, grad_mask_group;
    int64_t offset_bias_group, mask_bias_group;
    double origin_y, origin_x;  // where tap (0, 0) of output pixel (0, 0) samples without learned offset
    double offset_scale;

    int64_t taps() const { return levels ? level_count * points : kernel_h * kernel_w - (remove_center ? 1 : 0); }
    int64_t channels() const { return groups * depth; }
};

enum Pass : int64_t { BIAS_GELU = 0, DEPTHWISE = 1, NORM = 2, ADD_NORM = 3 };

// One of the fused passes for inference; fields that a pass does not need stay zero.
struct FusedProblem {
    const void* input;                    // rows of channels; for DEPTHWISE (n, h, w, channels)
    void* output;                         // rows of channels; may be the input, but for DEPTHWISE
    const void* residual;                 // ADD_NORM: rows of channels, to which the norm of the input is added
    const void *weight, *bias;            // DEPTHWISE: (channels, kernel_h, kernel_w) and (channels); others: the bias
    const void* scale;                    // ADD_NORM: (channels), of the norm; may be null
    const void *norm_weight, *norm_bias;  // (channels)
    double eps;
    int64_t pass, storage;
    int64_t parameters;  // the Storage of weights and biases
    int64_t gelu;        // NORM: followed by GELU
    int64_t rows;  // for DEPTHWISE the lines of all images, n * h_out
    int64_t channels;
    int64_t h, w, h_out, w_out, kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w;
};
