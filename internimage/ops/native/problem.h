// What one call of the kernels is about. Mirrored by the ctypes structures in __init__.py: same fields, same order.
#pragma once

#include <cstdint>

enum Storage : int64_t { FLOAT32 = 0, FLOAT64 = 1, BFLOAT16 = 2, FLOAT16 = 3 };

struct Dcnv3Problem {
    const void* input;        // (n, h, w, groups * depth)
    const void* offset;       // (n, h_out, w_out) rows of groups * taps * 2 values, offset_row apart
    const void* mask;         // (n, h_out, w_out) rows of groups * taps values, mask_row apart
    const void* input_bias;   // (groups * depth), added to every pixel of input; may be null; needs softmax
    const void* offset_bias;  // (groups * taps * 2), added to every row of offset; may be null
    const void* mask_bias;    // (groups * taps), likewise
    void* output;             // (n, h_out, w_out, groups * depth)
    const void* grad_output;  // like output
    void* grad_input;         // like input, zeroed by the caller; float32 for the half types
    void* grad_offset;        // (n, h_out, w_out, groups * taps * 2)
    void* grad_mask;          // (n, h_out, w_out, groups * taps)
    int64_t storage;          // a Storage
    int64_t softmax;          // the mask holds logits
    int64_t remove_center;    // the middle tap is left out
    int64_t n, h, w, h_out, w_out;
    int64_t groups, depth;  // depth: channels of a group
    int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
    int64_t offset_row, mask_row;
    double origin_y, origin_x;  // where tap (0, 0) of output pixel (0, 0) samples without learned offset
    double offset_scale;

    int64_t taps() const { return kernel_h * kernel_w - (remove_center ? 1 : 0); }
    int64_t channels() const { return groups * depth; }
};

enum Pass : int64_t { BIAS_GELU = 0, DEPTHWISE = 1, NORM = 2 };

// One of the fused passes for inference; fields that a pass does not need stay zero.
struct FusedProblem {
    const void* input;                    // rows of channels; for DEPTHWISE (n, h, w, channels)
    void* output;                         // rows of channels; may be the input, but for DEPTHWISE
    void* sum;                            // NORM: rows of channels, input + bias
    const void *weight, *bias;            // DEPTHWISE: (channels, kernel_h, kernel_w) and (channels); others: the bias
    const void *norm_weight, *norm_bias;  // (channels)
    double eps;
    int64_t pass, storage;
    int64_t rows;  // for DEPTHWISE the lines of all images, n * h_out
    int64_t channels;
    int64_t h, w, h_out, w_out, kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w;
};
