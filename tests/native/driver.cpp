// Runs every kernel on random calls, in every storage type and on every instruction set of this machine, and compares
// with naive loops. Built with AddressSanitizer and UBSan by `make sanitize`; every buffer has exactly the size it
// must have, so that one element read or written beside it ends the run.
//
//     driver [rounds] [seed]        prints how many calls were checked; exit code 1 when one is wrong

#include "kernels.cpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

using Numbers = std::vector<double>;

std::mt19937_64 engine;
int wrong = 0;

int64_t whole(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(engine); }
double real(double low, double high) { return std::uniform_real_distribution<double>(low, high)(engine); }
double normal() { return std::normal_distribution<double>()(engine); }
bool coin(double chance = 0.5) { return real(0, 1) < chance; }
template <typename T> T pick_of(std::initializer_list<T> values) { return values.begin()[whole(0, values.size() - 1)]; }

size_t bytes_of(int64_t storage) { return storage == FLOAT64 ? 8 : storage == FLOAT32 ? 4 : 2; }

void write_number(void* at, int64_t storage, double value) {
    if (storage == FLOAT64) memcpy(at, &value, 8);
    float single = float(value);
    if (storage == FLOAT32) memcpy(at, &single, 4);
    if (storage == BFLOAT16) baseline::narrow(single, *static_cast<baseline::BFloat16*>(at));
    if (storage == FLOAT16) baseline::narrow(single, *static_cast<baseline::Float16*>(at));
}

double read_number(const void* at, int64_t storage) {
    float single = 0;
    double value = 0;
    if (storage == FLOAT64) return memcpy(&value, at, 8), value;
    if (storage == FLOAT32) return memcpy(&single, at, 4), single;
    if (storage == BFLOAT16) return baseline::widen(*static_cast<const baseline::BFloat16*>(at));
    return baseline::widen(*static_cast<const baseline::Float16*>(at));
}

// Numbers in one storage type, in a heap block of just their size; often not aligned to a register.
class Buffer {
public:
    Buffer(int64_t count, int64_t storage, double fill = std::numeric_limits<double>::quiet_NaN())
        : count(count), storage(storage), shift(whole(0, 3)), memory(new char[(count + shift) * bytes_of(storage)]) {
        for (int64_t i = 0; i < count; ++i) set(i, fill);
    }
    char* data() const { return memory.get() + shift * bytes_of(storage); }
    double get(int64_t i) const { return read_number(data() + i * bytes_of(storage), storage); }
    void set(int64_t i, double value) { write_number(data() + i * bytes_of(storage), storage, value); }
    Numbers numbers() const {
        Numbers values(count);
        for (int64_t i = 0; i < count; ++i) values[i] = get(i);
        return values;
    }
    const int64_t count, storage;

private:
    int64_t shift;
    std::unique_ptr<char[]> memory;
};

struct Result {
    Numbers output, grad_input, grad_offset, grad_mask;
};

// What the terms of the sums add up to at most, without their signs: rounding is measured against it. A share of a pixel
// counts as a whole one, since a position is known to some 1e-7 of a pixel however small the share.
struct Sizes {
    double output = 0, grad_input = 0, grad_offset = 0, grad_mask = 0;
};

struct Call {
    DeformableProblem p{};
    std::unique_ptr<Buffer> input, offset, mask, grad_output;
    std::unique_ptr<Buffer> offset_bias, mask_bias;  // both or none
    std::unique_ptr<Buffer> input_bias;              // used by the forward pass alone
    std::vector<int64_t> levels;                     // of attention, else empty
    std::vector<bool> near_lattice;  // per tap: the offset gradient jumps within rounding

    int64_t offset_place(int64_t row, int64_t k) const {
        return row * p.offset_row + k / (2 * p.taps()) * p.offset_group + k % (2 * p.taps());
    }
    int64_t mask_place(int64_t row, int64_t k) const {
        return row * p.mask_row + k / p.taps() * p.mask_group + k % p.taps();
    }
    int64_t offset_bias_place(int64_t k) const { return k / (2 * p.taps()) * p.offset_bias_group + k % (2 * p.taps()); }
    int64_t mask_bias_place(int64_t k) const { return k / p.taps() * p.mask_bias_group + k % p.taps(); }
    double offset_at(int64_t row, int64_t k) const {
        return offset->get(offset_place(row, k)) + (offset_bias ? offset_bias->get(offset_bias_place(k)) : 0);
    }
    double mask_at(int64_t row, int64_t k) const {
        return mask->get(mask_place(row, k)) + (mask_bias ? mask_bias->get(mask_bias_place(k)) : 0);
    }
};

// Where a tap samples, on which map, and what a step of its offset moves it by.
struct Sample {
    double x, y;
    int64_t width, height, start;
    double step_x, step_y;
};

Sample sample_of(const Call& call, int64_t row, int64_t g, int64_t t) {
    const DeformableProblem& p = call.p;
    const double move_x = call.offset_at(row, 2 * (g * p.taps() + t)), move_y = call.offset_at(row, 2 * (g * p.taps() + t) + 1);
    if (p.levels) {
        int64_t start = 0, level = t / p.points;
        for (int64_t l = 0; l < level; ++l) start += p.levels[2 * l] * p.levels[2 * l + 1];
        const int64_t height = p.levels[2 * level], width = p.levels[2 * level + 1];
        return {move_x * double(width) - 0.5, move_y * double(height) - 0.5, width, height, start, double(width), double(height)};
    }
    const int64_t center = p.kernel_w / 2 * p.kernel_h + p.kernel_h / 2, cell = p.remove_center && t >= center ? t + 1 : t;
    const int64_t i = cell / p.kernel_h, j = cell % p.kernel_h, y = row / p.w_out % p.h_out, x = row % p.w_out;
    return {p.origin_x + double(x * p.stride_w) + (move_x + double(i * p.dilation_w)) * p.offset_scale,
            p.origin_y + double(y * p.stride_h) + (move_y + double(j * p.dilation_h)) * p.offset_scale,
            p.w, p.h, 0, p.offset_scale, p.offset_scale};
}

double any_offset(double spread) {
    if (coin(0.9)) return spread * normal();
    const double infinity = std::numeric_limits<double>::infinity();
    return pick_of({std::nan(""), infinity, -infinity, 1e30, -1e30, 6e4, -6e4, 2.0, -1.0});
}

// Parameters are stored like the maps, or in float32 as under autocast.
int64_t parameters_of(int64_t storage) { return storage == FLOAT64 || coin() ? storage : int64_t(FLOAT32); }

Call random_call(int64_t storage) {
    Call call;
    DeformableProblem& p = call.p;
    p.storage = storage, p.bias_storage = parameters_of(storage), p.offset_storage = parameters_of(storage);
    p.softmax = coin();
    p.n = whole(0, 2), p.h = whole(1, 9), p.w = whole(1, 9);
    p.groups = whole(1, 4), p.depth = pick_of<int64_t>({1, 2, 3, 4, 5, 7, 8, 12, 15, 16, 17, 24, 32, 33, 48, 67});
    p.kernel_h = whole(1, 5), p.kernel_w = whole(1, 5);
    if (coin(0.02)) p.kernel_h = p.kernel_w = 17, p.groups = whole(1, 2);  // more taps than one tile is made for
    p.stride_h = whole(1, 3), p.stride_w = whole(1, 3);
    p.dilation_h = whole(1, 3), p.dilation_w = whole(1, 3);
    p.remove_center = p.kernel_h % 2 && p.kernel_w % 2 && p.taps() > 1 && coin();
    p.h_out = whole(1, 6), p.w_out = whole(1, 6);
    if (coin(0.03)) p.w_out = whole(17, 40), p.groups = 4, p.depth = 67;  // wide enough to be cut in strips of columns
    p.origin_y = real(-4, 3), p.origin_x = real(-4, 3);
    p.offset_scale = pick_of({1.0, 2.0, 0.5, -0.7, 0.0, 1.3});
    const bool attention = coin(0.3);
    if (attention) {
        p.level_count = whole(1, 4), p.points = whole(1, 5);
        p.h = 1, p.w = 0, p.h_out = 1, p.w_out = whole(0, 20);
        for (int64_t level = 0; level < p.level_count; ++level) {
            const int64_t height = whole(0, 7), width = whole(0, 7);  // an empty level is one nothing is sampled from
            call.levels.insert(call.levels.end(), {height, width});
            p.w += height * width;
        }
        p.levels = call.levels.data(), p.remove_center = 0;
    }
    const int64_t rows = p.n * p.h_out * p.w_out, lanes = p.groups * p.taps();
    p.offset_group = 2 * p.taps() + whole(0, 1) * whole(0, 5), p.mask_group = p.taps() + whole(0, 1) * whole(0, 5);
    p.offset_row = p.groups * p.offset_group + whole(0, 1) * whole(0, 9), p.mask_row = p.groups * p.mask_group + whole(0, 1) * whole(0, 9);
    const double spread = pick_of({0.0, 0.7, 3.0});
    const bool whole_pixels = coin(0.25);  // samples exactly on the rim, where one pixel more or less is read
    if (whole_pixels && !attention) {
        p.origin_y = std::round(p.origin_y), p.origin_x = std::round(p.origin_x);
        p.offset_scale = pick_of({1.0, 2.0, -1.0});
    }
    // the last row ends with its numbers, whatever the distance of the rows
    call.offset.reset(new Buffer(rows ? call.offset_place(rows - 1, 2 * lanes - 1) + 1 : 0, p.offset_storage));
    call.mask.reset(new Buffer(rows ? call.mask_place(rows - 1, lanes - 1) + 1 : 0, storage));
    call.input.reset(new Buffer(p.n * p.h * p.w * p.channels(), storage));
    call.grad_output.reset(new Buffer(rows * p.channels(), storage));
    const double large = coin(0.1) ? 40.0 : 1.0;  // logits beyond the range in which exp needs no care
    for (int64_t row = 0; row < rows; ++row) {
        for (int64_t k = 0; k < 2 * lanes; ++k) {
            const double offset = attention ? any_offset(0.4) + 0.5 : any_offset(spread);
            call.offset->set(call.offset_place(row, k), whole_pixels && !attention ? std::round(offset) : offset);
        }
        for (int64_t k = 0; k < lanes; ++k) {
            call.mask->set(call.mask_place(row, k), p.softmax ? large * normal() : real(-0.2, 1));
        }
    }
    if (coin(0.3) && !attention) {
        p.offset_bias_group = 2 * p.taps() + whole(0, 3), p.mask_bias_group = p.taps() + whole(0, 3);
        call.offset_bias.reset(new Buffer(call.offset_bias_place(2 * lanes - 1) + 1, p.bias_storage));
        call.mask_bias.reset(new Buffer(call.mask_bias_place(lanes - 1) + 1, p.bias_storage));
        for (int64_t k = 0; k < 2 * lanes; ++k) call.offset_bias->set(call.offset_bias_place(k), double(whole(-2, 2)));  // exact
        for (int64_t k = 0; k < lanes; ++k) call.mask_bias->set(call.mask_bias_place(k), double(whole(-2, 2)) / 8);
    }
    if (coin(0.3)) {
        call.input_bias.reset(new Buffer(p.channels(), p.bias_storage));
        for (int64_t c = 0; c < p.channels(); ++c) call.input_bias->set(c, normal());
    }
    for (int64_t i = 0; i < call.input->count; ++i) call.input->set(i, normal());
    for (int64_t i = 0; i < call.grad_output->count; ++i) call.grad_output->set(i, normal());
    return call;
}

Numbers weights_of(const Call& call, int64_t row, int64_t g) {
    const int64_t taps = call.p.taps();
    Numbers weights(taps);
    for (int64_t t = 0; t < taps; ++t) weights[t] = call.mask_at(row, g * taps + t);
    if (!call.p.softmax) return weights;
    const double highest = *std::max_element(weights.begin(), weights.end());
    double sum = 0;
    for (double& weight : weights) sum += weight = std::exp(weight - highest);
    for (double& weight : weights) weight /= sum;
    return weights;
}

// One group at one output pixel; adds to result and sizes.
void naive_group(Call& call, int64_t row, int64_t g, Result& result, Sizes& sizes) {
    const DeformableProblem& p = call.p;
    const int64_t taps = p.taps(), channels = p.channels();
    const int64_t image = row / (p.h_out * p.w_out);
    const Numbers weights = weights_of(call, row, g);
    Numbers of_mask(taps, 0.0);
    Numbers output_size(p.depth, 0.0);
    double all_grads = 0;
    auto bias_at = [&](int64_t d) { return call.input_bias ? call.input_bias->get(g * p.depth + d) : 0; };
    double all_weights = 0;  // of samples outside, too: they take off what the bias was added for them
    for (double weight : weights) all_weights += std::fabs(weight);
    for (int64_t d = 0; d < p.depth; ++d) output_size[d] = (1 + all_weights) * std::fabs(bias_at(d));
    for (int64_t d = 0; d < p.depth; ++d) all_grads += std::fabs(call.grad_output->get(row * channels + g * p.depth + d));
    for (int64_t t = 0; t < taps; ++t) {
        const int64_t lane = row * p.groups * taps + g * taps + t;
        const Sample at = sample_of(call, row, g, t);
        const double off_x = std::fabs(at.x - std::round(at.x)), off_y = std::fabs(at.y - std::round(at.y));
        call.near_lattice[lane] = off_x < 1e-4 || off_y < 1e-4;
        if (!(at.x > -1 && at.y > -1 && at.x < double(at.width) && at.y < double(at.height))) continue;
        const double left = std::floor(at.x), top = std::floor(at.y);
        for (int corner = 0; corner < 4; ++corner) {
            const int right = corner % 2, lower = corner / 2;
            const int64_t column = int64_t(left) + right, line = int64_t(top) + lower;
            if (column < 0 || column >= at.width || line < 0 || line >= at.height) continue;
            const double share_x = right ? at.x - left : 1 - (at.x - left), share_y = lower ? at.y - top : 1 - (at.y - top);
            for (int64_t d = 0; d < p.depth; ++d) {
                const int64_t pixel = image * p.h * p.w + at.start + line * at.width + column;
                const int64_t from = pixel * channels + g * p.depth + d, to = row * channels + g * p.depth + d;
                const double value = call.input->get(from), grad = call.grad_output->get(to);
                result.output[to] += weights[t] * share_x * share_y * (value + bias_at(d));
                output_size[d] += std::fabs(weights[t] * value);
                result.grad_input[from] += weights[t] * share_x * share_y * grad;
                of_mask[t] += share_x * share_y * value * grad;
                const double slope = weights[t] * value * grad, step = std::max(std::fabs(at.step_x), std::fabs(at.step_y));
                result.grad_offset[2 * lane] += slope * at.step_x * (right ? share_y : -share_y);
                result.grad_offset[2 * lane + 1] += slope * at.step_y * (lower ? share_x : -share_x);
                sizes.grad_offset = std::max(sizes.grad_offset, 8 * std::fabs(weights[t] * value) * step * all_grads);
                sizes.grad_input = std::max(sizes.grad_input, 8 * std::fabs(weights[t] * grad));
                sizes.grad_mask = std::max(sizes.grad_mask, 4 * std::fabs(value) * all_grads);
            }
        }
    }
    for (double size : output_size) sizes.output = std::max(sizes.output, size);
    double mean = 0;
    for (int64_t k = 0; k < taps; ++k) mean += weights[k] * of_mask[k];
    for (int64_t k = 0; k < taps; ++k) {
        result.grad_mask[(row * p.groups + g) * taps + k] = p.softmax ? weights[k] * (of_mask[k] - mean) : of_mask[k];
    }
}

Result naive(Call& call, Sizes& sizes) {
    const DeformableProblem& p = call.p;
    const int64_t rows = p.n * p.h_out * p.w_out, lanes = rows * p.groups * p.taps();
    call.near_lattice.assign(lanes, false);
    Result result{Numbers(rows * p.channels()), Numbers(call.input->count), Numbers(2 * lanes), Numbers(lanes)};
    for (int64_t row = 0; row < rows; ++row) {
        for (int64_t g = 0; g < p.groups; ++g) naive_group(call, row, g, result, sizes);
    }
    return result;
}

Result kernels(const Call& call) {
    DeformableProblem p = call.p;
    const int64_t rows = p.n * p.h_out * p.w_out, lanes = rows * p.groups * p.taps();
    Buffer output(rows * p.channels(), p.storage);
    Buffer grad_offset(call.offset->count, p.offset_storage), grad_mask(call.mask->count, p.storage);
    Buffer grad_input(call.input->count, p.storage == FLOAT64 ? FLOAT64 : FLOAT32, 0.0);
    p.input = call.input->data(), p.offset = call.offset->data(), p.mask = call.mask->data();
    if (call.offset_bias) p.offset_bias = call.offset_bias->data(), p.mask_bias = call.mask_bias->data();
    if (call.input_bias) p.input_bias = call.input_bias->data();
    p.grad_output = call.grad_output->data(), p.output = output.data();
    p.grad_input = grad_input.data(), p.grad_offset = grad_offset.data(), p.grad_mask = grad_mask.data();
    p.grad_offset_row = p.offset_row, p.grad_offset_group = p.offset_group;
    p.grad_mask_row = p.mask_row, p.grad_mask_group = p.mask_group;
    internimage_deformable_forward(&p);
    internimage_deformable_backward(&p);
    Numbers of_offset(2 * lanes), of_mask(lanes);
    const int64_t each = p.groups * p.taps();
    for (int64_t k = 0; k < 2 * lanes; ++k) of_offset[k] = grad_offset.get(call.offset_place(k / (2 * each), k % (2 * each)));
    for (int64_t k = 0; k < lanes; ++k) of_mask[k] = grad_mask.get(call.mask_place(k / each, k % each));
    return {output.numbers(), grad_input.numbers(), of_offset, of_mask};
}

double tolerance_of(int64_t storage) { return storage == FLOAT64 ? 1e-12 : storage == FLOAT32 ? 1e-5 : storage == BFLOAT16 ? 8e-3 : 1e-3; }

void report(const char* what, const std::string& where, int64_t at, double got, double want) {
    if (++wrong <= 20) std::printf("%s[%lld] is %.9g, expected %.9g: %s\n", what, (long long)at, got, want, where.c_str());
}

void compare(const char* what, const Numbers& got, const Numbers& want, double bound, const std::string& where,
             const std::vector<bool>* ignore = nullptr) {
    for (size_t i = 0; i < want.size(); ++i) {
        if (ignore && (*ignore)[i / 2]) continue;
        if (!(std::fabs(got[i] - want[i]) <= bound)) report(what, where, int64_t(i), got[i], want[i]);
    }
}

std::string describe(const DeformableProblem& p) {
    char text[400];
    std::snprintf(text, sizeof text,
                  "%s storage %d, n %d, %dx%d to %dx%d, groups %d, depth %d, kernel %dx%d, stride %dx%d, dilation %dx%d, "
                  "scale %g, softmax %d, remove_center %d, levels %d of %d points",
                  internimage_instruction_set(), int(p.storage), int(p.n), int(p.h), int(p.w), int(p.h_out), int(p.w_out),
                  int(p.groups), int(p.depth), int(p.kernel_h), int(p.kernel_w), int(p.stride_h), int(p.stride_w),
                  int(p.dilation_h), int(p.dilation_w), p.offset_scale, int(p.softmax), int(p.remove_center), int(p.level_count),
                  int(p.points));
    return text;
}

void check_deformable(int64_t storage, const std::vector<const char*>& levels) {
    Call call = random_call(storage);
    Sizes sizes;
    const Result want = naive(call, sizes);
    const double bound = tolerance_of(storage), tiny = storage == FLOAT16 ? 1e-6 : 1e-30;  // half types have no smaller ones
    for (const char* name : levels) {
        internimage_set_instruction_set(name);
        const Result got = kernels(call);
        const std::string where = describe(call.p);
        compare("output", got.output, want.output, bound * sizes.output + tiny, where);
        compare("grad_input", got.grad_input, want.grad_input, std::min(bound, 1e-5) * sizes.grad_input + tiny, where);
        compare("grad_offset", got.grad_offset, want.grad_offset, bound * sizes.grad_offset + tiny, where, &call.near_lattice);
        compare("grad_mask", got.grad_mask, want.grad_mask, bound * sizes.grad_mask + tiny, where);
    }
}

double gelu(double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }

void check_bias_gelu(int64_t storage, const std::vector<const char*>& levels) {
    const int64_t rows = whole(0, 5), channels = whole(1, 70);
    const int64_t parameters = parameters_of(storage);
    Buffer input(rows * channels, storage), bias(channels, parameters);
    for (int64_t i = 0; i < input.count; ++i) input.set(i, 3 * normal());
    for (int64_t i = 0; i < channels; ++i) bias.set(i, normal());
    Numbers want(input.count);
    for (int64_t i = 0; i < input.count; ++i) want[i] = gelu(input.get(i) + bias.get(i % channels));
    for (const char* name : levels) {
        internimage_set_instruction_set(name);
        Buffer values(input.count, storage);
        for (int64_t i = 0; i < input.count; ++i) values.set(i, input.get(i));
        FusedProblem p{};
        p.pass = BIAS_GELU, p.storage = storage, p.parameters = parameters, p.rows = rows, p.channels = channels;
        p.input = p.output = values.data(), p.bias = bias.data();
        internimage_fused(&p);
        compare("bias_gelu", values.numbers(), want, tolerance_of(storage) * 10, std::string(name) + " storage " + std::to_string(storage));
    }
}

// Layer norm of one pixel's channels.
void naive_norm(Numbers& values, double eps, const Buffer& weight, const Buffer& bias) {
    double mean = 0, variance = 0;
    for (double value : values) mean += value / double(values.size());
    for (double value : values) variance += (value - mean) * (value - mean) / double(values.size());
    for (size_t c = 0; c < values.size(); ++c) {
        values[c] = (values[c] - mean) / std::sqrt(variance + eps) * weight.get(int64_t(c)) + bias.get(int64_t(c));
    }
}

void check_norm(int64_t storage, const std::vector<const char*>& levels) {
    const int64_t rows = whole(0, 5), channels = whole(2, 70);
    const int64_t parameters = parameters_of(storage);
    const bool then_gelu = coin();
    Buffer input(rows * channels, storage), norm_weight(channels, parameters), norm_bias(channels, parameters);
    for (Buffer* buffer : {&input, &norm_weight, &norm_bias}) {
        for (int64_t i = 0; i < buffer->count; ++i) buffer->set(i, normal());
    }
    Numbers want;
    for (int64_t row = 0; row < rows; ++row) {
        Numbers values(channels);
        for (int64_t c = 0; c < channels; ++c) values[c] = input.get(row * channels + c);
        naive_norm(values, 1e-6, norm_weight, norm_bias);
        for (double value : values) want.push_back(then_gelu ? gelu(value) : value);
    }
    for (const char* name : levels) {
        internimage_set_instruction_set(name);
        Buffer output(input.count, storage);
        FusedProblem p{};
        p.pass = NORM, p.storage = storage, p.parameters = parameters, p.rows = rows, p.channels = channels, p.eps = 1e-6;
        p.input = input.data(), p.output = output.data(), p.gelu = then_gelu;
        p.norm_weight = norm_weight.data(), p.norm_bias = norm_bias.data();
        internimage_fused(&p);
        const std::string where = std::string(name) + " storage " + std::to_string(storage);
        compare("norm", output.numbers(), want, tolerance_of(storage) * 30, where);
    }
}

void check_add_norm(int64_t storage, const std::vector<const char*>& levels) {
    const int64_t rows = whole(0, 9), channels = whole(2, 70), parameters = parameters_of(storage);
    const bool scaled = coin();
    Buffer input(rows * channels, storage), residual(rows * channels, storage);
    Buffer scale(channels, parameters), norm_weight(channels, parameters), norm_bias(channels, parameters);
    for (Buffer* buffer : {&input, &residual, &scale, &norm_weight, &norm_bias}) {
        for (int64_t i = 0; i < buffer->count; ++i) buffer->set(i, normal());
    }
    Numbers want;
    for (int64_t row = 0; row < rows; ++row) {
        Numbers values(channels);
        for (int64_t c = 0; c < channels; ++c) values[c] = input.get(row * channels + c);
        naive_norm(values, 1e-6, norm_weight, norm_bias);
        for (int64_t c = 0; c < channels; ++c) {
            want.push_back(residual.get(row * channels + c) + values[c] * (scaled ? scale.get(c) : 1));
        }
    }
    for (const char* name : levels) {
        internimage_set_instruction_set(name);
        Buffer output(input.count, storage);
        FusedProblem p{};
        p.pass = ADD_NORM, p.storage = storage, p.parameters = parameters, p.rows = rows, p.channels = channels, p.eps = 1e-6;
        p.input = input.data(), p.output = output.data(), p.residual = residual.data();
        p.scale = scaled ? scale.data() : nullptr, p.norm_weight = norm_weight.data(), p.norm_bias = norm_bias.data();
        internimage_fused(&p);
        compare("add norm", output.numbers(), want, tolerance_of(storage) * 30, std::string(name) + " storage " + std::to_string(storage));
    }
}

// Convolution of one output pixel, layer norm over its channels, GELU.
Numbers naive_depthwise(const FusedProblem& p, const Buffer& input, const Buffer& weight, const Buffer& bias,
                        const Buffer& norm_weight, const Buffer& norm_bias, int64_t line, int64_t x) {
    const int64_t image = line / p.h_out, y = line % p.h_out;
    Numbers values(p.channels);
    for (int64_t c = 0; c < p.channels; ++c) {
        values[c] = bias.get(c);
        for (int64_t j = 0; j < p.kernel_h; ++j) {
            for (int64_t i = 0; i < p.kernel_w; ++i) {
                const int64_t row = y * p.stride_h - p.padding_h + j, column = x * p.stride_w - p.padding_w + i;
                if (row < 0 || row >= p.h || column < 0 || column >= p.w) continue;
                values[c] += weight.get((c * p.kernel_h + j) * p.kernel_w + i) *
                             input.get(((image * p.h + row) * p.w + column) * p.channels + c);
            }
        }
    }
    naive_norm(values, p.eps, norm_weight, norm_bias);
    for (double& value : values) value = gelu(value);
    return values;
}

void check_depthwise(int64_t storage, const std::vector<const char*>& levels) {
    FusedProblem p{};
    p.pass = DEPTHWISE, p.storage = storage, p.parameters = parameters_of(storage), p.eps = 1e-6;
    p.channels = whole(2, 80), p.h = whole(1, 8), p.w = whole(1, 8);
    p.kernel_h = whole(1, 5), p.kernel_w = whole(1, 5), p.stride_h = whole(1, 3), p.stride_w = whole(1, 3);
    p.padding_h = whole((p.kernel_h - 1) / 2, 3), p.padding_w = whole((p.kernel_w - 1) / 2, 3);
    p.h_out = (p.h + 2 * p.padding_h - p.kernel_h) / p.stride_h + 1, p.w_out = (p.w + 2 * p.padding_w - p.kernel_w) / p.stride_w + 1;
    if (p.h + 2 * p.padding_h < p.kernel_h || p.w + 2 * p.padding_w < p.kernel_w) return;
    const int64_t n = whole(0, 2);
    p.rows = n * p.h_out;
    Buffer input(n * p.h * p.w * p.channels, storage), weight(p.channels * p.kernel_h * p.kernel_w, p.parameters);
    Buffer bias(p.channels, p.parameters), norm_weight(p.channels, p.parameters), norm_bias(p.channels, p.parameters);
    for (Buffer* buffer : {&input, &weight, &bias, &norm_weight, &norm_bias}) {
        for (int64_t i = 0; i < buffer->count; ++i) buffer->set(i, normal());
    }
    Numbers want;
    for (int64_t line = 0; line < p.rows; ++line) {
        for (int64_t x = 0; x < p.w_out; ++x) {
            const Numbers pixel = naive_depthwise(p, input, weight, bias, norm_weight, norm_bias, line, x);
            want.insert(want.end(), pixel.begin(), pixel.end());
        }
    }
    for (const char* name : levels) {
        internimage_set_instruction_set(name);
        Buffer output(p.rows * p.w_out * p.channels, storage);
        p.input = input.data(), p.output = output.data(), p.weight = weight.data(), p.bias = bias.data();
        p.norm_weight = norm_weight.data(), p.norm_bias = norm_bias.data();
        internimage_fused(&p);
        // few channels that are nearly equal: the norm divides by little and magnifies the rounding
        compare("depthwise", output.numbers(), want, tolerance_of(storage) * 30, std::string(name) + " storage " + std::to_string(storage));
    }
}

// Some of the work on threads of its own, as torch's pool would: ranges that do not overlap, at once.
int32_t on_threads(int64_t begin, int64_t end, int64_t, Range range, void* context) {
    const int64_t parts = std::min<int64_t>(end - begin, 3);
    std::vector<std::thread> threads;
    for (int64_t part = 0; part < parts; ++part) {
        const int64_t from = begin + (end - begin) * part / parts, to = begin + (end - begin) * (part + 1) / parts;
        threads.emplace_back(range, from, to, context);
    }
    for (std::thread& thread : threads) thread.join();
    return 0;
}

int main(int argc, char** argv) {
    const int rounds = argc > 1 ? std::atoi(argv[1]) : 300;
    engine.seed(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 0);
    std::vector<const char*> levels;
    for (const char* name : {"baseline", "avx2", "avx512"}) {
        if (internimage_set_instruction_set(name)) levels.push_back(name);
    }
    int64_t calls = 0;
    for (int round = 0; round < rounds && !wrong; ++round) {
        internimage_set_parallel_for(round % 4 == 0 ? reinterpret_cast<void*>(on_threads) : nullptr);
        for (int64_t storage : {FLOAT32, FLOAT64, BFLOAT16, FLOAT16}) {
            check_deformable(storage, levels);
            if (storage != FLOAT64) check_bias_gelu(storage, levels), check_norm(storage, levels), check_add_norm(storage, levels), check_depthwise(storage, levels);
            calls += int64_t(levels.size()) * (storage == FLOAT64 ? 1 : 5);
        }
    }
    std::printf("%lld calls on", (long long)calls);
    for (const char* name : levels) std::printf(" %s", name);
    std::printf(": %s\n", wrong ? "WRONG" : "all right");
    return wrong ? 1 : 0;
}
