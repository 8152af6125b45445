// Passes of the network around the operator, fused for inference: each reads its input once and writes its output once.
// Included once for each instruction set, inside its namespace, after storage.h.

// 1/x of numbers that are not tiny: where division is slow an estimate and a Newton step, two units in the last place.
template <int L> INLINE Pack<float, L> reciprocal_of(Pack<float, L> x) {
#if defined(X86_LANES) && X86_LANES == 16
    if constexpr (L == 16) {
        const Pack<float, L> estimate = (Pack<float, L>)_mm512_rcp14_ps((__m512)x);
        return estimate * (2.0f - x * estimate);
    }
#endif
    return 1.0f / x;
}

// erf(x) as x * P(x^2) / Q(x^2) on [-4, 4], where float32 has reached 1: three units in the last place at most.
template <int L> INLINE Pack<float, L> erf_of(Pack<float, L> x) {
    const Pack<float, L> high = Pack<float, L>{} + 4.0f, low = Pack<float, L>{} - 4.0f;
    x = x < low ? low : x;
    x = x > high ? high : x;
    const Pack<float, L> s = x * x;
    Pack<float, L> p = s * -2.72614225801306e-10f + 2.77068142495902e-08f;
    p = p * s - 2.10102402082508e-06f;
    p = p * s - 5.69250639462346e-05f;
    p = p * s - 7.34990630326855e-04f;
    p = p * s - 2.95459980854025e-03f;
    p = p * s - 1.60960333262415e-02f;
    Pack<float, L> q = s * -1.45660718464996e-05f - 2.13374055278905e-04f;
    q = q * s - 1.68282697438203e-03f;
    q = q * s - 7.37332916720468e-03f;
    q = q * s - 1.42647390514189e-02f;
    return x * p * reciprocal_of<L>(q);
}

template <int L> INLINE Pack<float, L> gelu_of(Pack<float, L> x) {
    return 0.5f * x * (1.0f + erf_of<L>(x * 0.70710678f));
}

// Rows of numbers with room behind the last one: everything works on whole registers.
struct Rows {
    int64_t channels, padded;
    std::unique_ptr<float[]> memory;

    Rows(int64_t count, int64_t channels)
        : channels(channels), padded((channels + LANES - 1) / LANES * LANES), memory(new float[count * padded]()) {}

    INLINE float* at(int64_t row) const { return memory.get() + row * padded; }

    template <typename T> INLINE void read(int64_t row, const T* from) {
        float* values = at(row);
        int64_t c = 0;
        for (; c + LANES <= channels; c += LANES) store<LANES>(values + c, load<LANES>(from + c));
        for (; c < channels; ++c) values[c] = widen(from[c]);
    }
    void read_parameter(const void* from, int64_t storage) {  // the first row; zeros where there is none
        for (int64_t c = 0; from != nullptr && c < channels; ++c) at(0)[c] = parameter<float>(from, storage, c);
    }
};

// As many of a register's numbers as there is room for.
template <typename T> INLINE void put(Pack<float, LANES> numbers, T* to, int64_t room) {
    if (room >= LANES) return store<LANES>(to, numbers);
    float lanes[LANES];
    store<LANES>(lanes, numbers);
    for (int64_t c = 0; c < room; ++c) narrow(lanes[c], to[c]);
}

template <typename T> INLINE Pack<float, LANES> get(const T* from, int64_t room) {
    if (room >= LANES) return load<LANES>(from);
    float lanes[LANES] = {};
    for (int64_t c = 0; c < room; ++c) lanes[c] = widen(from[c]);
    return load<LANES>(lanes);
}

// Layer norm of rows [first, first + AT_ONCE), of which `count` count: mean and variance over the channels, then weight and
// bias, then GELU or the sum with a residual if asked for. A row alone would wait for its sums; of those at once, each goes on while others wait.
constexpr int64_t AT_ONCE = 4;

enum Then { NOTHING, GELU, SUM };

template <Then THEN, typename T>
INLINE void normalise(const Rows& rows, int64_t first, int64_t count, const Rows& weight, const Rows& bias, float eps, T* output,
                      const T* residual = nullptr) {
    const int64_t channels = rows.channels, whole = channels / LANES * LANES;
    const float* row[AT_ONCE];
    for (int k = 0; k < AT_ONCE; ++k) row[k] = rows.at(first + k);
    float mean[AT_ONCE] = {}, scale[AT_ONCE] = {};
    Pack<float, LANES> sum[AT_ONCE] = {}, squares[AT_ONCE] = {};
    for (int64_t c = 0; c < whole; c += LANES) {
        for (int k = 0; k < AT_ONCE; ++k) sum[k] += load<LANES>(row[k] + c);
    }
    for (int64_t c = whole; c < channels; ++c) {
        for (int k = 0; k < AT_ONCE; ++k) mean[k] += row[k][c];
    }
    add_sums<float, LANES>(mean, sum[0], sum[1], sum[2], sum[3]);
    for (int k = 0; k < AT_ONCE; ++k) mean[k] /= float(channels);
    for (int64_t c = 0; c < whole; c += LANES) {
        for (int k = 0; k < AT_ONCE; ++k) {
            const Pack<float, LANES> centred = load<LANES>(row[k] + c) - mean[k];
            squares[k] += centred * centred;
        }
    }
    for (int64_t c = whole; c < channels; ++c) {
        for (int k = 0; k < AT_ONCE; ++k) scale[k] += (row[k][c] - mean[k]) * (row[k][c] - mean[k]);
    }
    add_sums<float, LANES>(scale, squares[0], squares[1], squares[2], squares[3]);
    for (int k = 0; k < AT_ONCE; ++k) scale[k] = 1.0f / std::sqrt(scale[k] / float(channels) + eps);
    for (int64_t c = 0; c < rows.padded; c += LANES) {
        const Pack<float, LANES> by = load<LANES>(weight.at(0) + c), plus = load<LANES>(bias.at(0) + c);
        for (int k = 0; k < count; ++k) {
            Pack<float, LANES> result = (load<LANES>(row[k] + c) - mean[k]) * scale[k] * by + plus;
            if constexpr (THEN == GELU) result = gelu_of<LANES>(result);
            if constexpr (THEN == SUM) result += get(residual + k * channels + c, channels - c);
            put(result, output + k * channels + c, channels - c);
        }
    }
}

template <typename T> void bias_gelu_rows(int64_t begin, int64_t end, void* context) {
    const auto& p = *static_cast<const FusedProblem*>(context);
    Rows bias(1, p.channels);
    bias.read_parameter(p.bias, p.parameters);
    for (int64_t r = begin; r < end; ++r) {
        const T* input = static_cast<const T*>(p.input) + r * p.channels;
        T* output = static_cast<T*>(p.output) + r * p.channels;
        for (int64_t c = 0; c < p.channels; c += LANES) {
            const Pack<float, LANES> sum = get(input + c, p.channels - c) + load<LANES>(bias.at(0) + c);
            put(gelu_of<LANES>(sum), output + c, p.channels - c);
        }
    }
}

// Layer norm of each row, then GELU if asked for.
template <typename T> void norm_rows(int64_t begin, int64_t end, void* context) {
    const auto& p = *static_cast<const FusedProblem*>(context);
    Rows rows(AT_ONCE, p.channels), norm_weight(1, p.channels), norm_bias(1, p.channels);
    norm_weight.read_parameter(p.norm_weight, p.parameters);
    norm_bias.read_parameter(p.norm_bias, p.parameters);
    for (int64_t r = begin; r < end; r += AT_ONCE) {
        const int64_t count = end - r < AT_ONCE ? end - r : AT_ONCE;
        for (int64_t k = 0; k < count; ++k) rows.read(k, static_cast<const T*>(p.input) + (r + k) * p.channels);
        T* output = static_cast<T*>(p.output) + r * p.channels;
        if (p.gelu) {
            normalise<GELU>(rows, 0, count, norm_weight, norm_bias, float(p.eps), output);
        } else {
            normalise<NOTHING>(rows, 0, count, norm_weight, norm_bias, float(p.eps), output);
        }
    }
}

// The layer norm of each row, times a scale if there is one, plus the same row of the residual.
template <typename T> void add_norm_rows(int64_t begin, int64_t end, void* context) {
    const auto& p = *static_cast<const FusedProblem*>(context);
    Rows rows(AT_ONCE, p.channels), norm_weight(1, p.channels), norm_bias(1, p.channels);
    norm_weight.read_parameter(p.norm_weight, p.parameters);
    norm_bias.read_parameter(p.norm_bias, p.parameters);
    for (int64_t c = 0; p.scale != nullptr && c < p.channels; ++c) {
        const float scale = parameter<float>(p.scale, p.parameters, c);
        norm_weight.at(0)[c] *= scale;
        norm_bias.at(0)[c] *= scale;
    }
    for (int64_t r = begin; r < end; r += AT_ONCE) {
        const int64_t count = end - r < AT_ONCE ? end - r : AT_ONCE, at = r * p.channels;
        for (int64_t k = 0; k < count; ++k) rows.read(k, static_cast<const T*>(p.input) + at + k * p.channels);
        normalise<SUM>(rows, 0, count, norm_weight, norm_bias, float(p.eps), static_cast<T*>(p.output) + at,
                       static_cast<const T*>(p.residual) + at);
    }
}

// Depthwise convolution, layer norm and GELU.
template <typename T> struct Depthwise {
    const FusedProblem& p;
    Rows kernel, bias, norm_weight, norm_bias, line;

    explicit Depthwise(const FusedProblem& problem)
        : p(problem), kernel(p.kernel_h * p.kernel_w, p.channels), bias(1, p.channels), norm_weight(1, p.channels),
          norm_bias(1, p.channels), line((p.w_out + AT_ONCE - 1) / AT_ONCE * AT_ONCE, p.channels) {
        const int64_t taps = p.kernel_h * p.kernel_w;
        for (int64_t c = 0; c < p.channels; ++c) {
            for (int64_t t = 0; t < taps; ++t) kernel.at(t)[c] = parameter<float>(p.weight, p.parameters, c * taps + t);
        }
        bias.read_parameter(p.bias, p.parameters);
        norm_weight.read_parameter(p.norm_weight, p.parameters);
        norm_bias.read_parameter(p.norm_bias, p.parameters);
    }

    void run(int64_t index) {
        const T* image = static_cast<const T*>(p.input) + index / p.h_out * p.h * p.w * p.channels;
        T* output = static_cast<T*>(p.output) + index * p.w_out * p.channels;
        for (int64_t x = 0; x < p.w_out; ++x) convolve(image, index % p.h_out, x);
        for (int64_t x = 0; x < p.w_out; x += AT_ONCE) {
            const int64_t count = p.w_out - x < AT_ONCE ? p.w_out - x : AT_ONCE;
            normalise<GELU>(line, x, count, norm_weight, norm_bias, float(p.eps), output + x * p.channels);
        }
    }

    INLINE void convolve(const T* image, int64_t y, int64_t x) {
        const int64_t top = y * p.stride_h - p.padding_h, left = x * p.stride_w - p.padding_w;
        const int64_t first_j = top < 0 ? -top : 0, last_j = p.h - top < p.kernel_h ? p.h - top : p.kernel_h;
        const int64_t first_i = left < 0 ? -left : 0, last_i = p.w - left < p.kernel_w ? p.w - left : p.kernel_w;
        int64_t c = 0;
        for (; c + 4 * LANES <= p.channels; c += 4 * LANES) strip<4>(image, x, top, left, first_j, last_j, first_i, last_i, c);
        for (; c + LANES <= p.channels; c += LANES) strip<1>(image, x, top, left, first_j, last_j, first_i, last_i, c);
        for (; c < p.channels; ++c) {
            float sum = bias.at(0)[c];
            for (int64_t j = first_j; j < last_j; ++j) {
                for (int64_t i = first_i; i < last_i; ++i) {
                    sum += kernel.at(j * p.kernel_w + i)[c] * widen(image[((top + j) * p.w + left + i) * p.channels + c]);
                }
            }
            line.at(x)[c] = sum;
        }
    }

    template <int BLOCKS>
    INLINE void strip(const T* image, int64_t x, int64_t top, int64_t left, int64_t first_j, int64_t last_j, int64_t first_i,
                      int64_t last_i, int64_t c) {
        Pack<float, LANES> sum[BLOCKS];
        for (int b = 0; b < BLOCKS; ++b) sum[b] = load<LANES>(bias.at(0) + c + b * LANES);
        for (int64_t j = first_j; j < last_j; ++j) {
            const T* from = image + ((top + j) * p.w + left) * p.channels + c;
            for (int64_t i = first_i; i < last_i; ++i) {
                const float* weight = kernel.at(j * p.kernel_w + i) + c;
                for (int b = 0; b < BLOCKS; ++b) {
                    sum[b] += load<LANES>(weight + b * LANES) * load<LANES>(from + i * p.channels + b * LANES);
                }
            }
        }
        for (int b = 0; b < BLOCKS; ++b) store<LANES>(line.at(x) + c + b * LANES, sum[b]);
    }
};

template <typename T> void depthwise_lines(int64_t begin, int64_t end, void* context) {
    Depthwise<T> depthwise(*static_cast<const FusedProblem*>(context));
    for (int64_t index = begin; index < end; ++index) depthwise.run(index);
}

// Passes in the order of enum Pass, storage types in the order of enum Storage without float64.
inline Range fused_of(int64_t pass, int64_t storage) {
    static const Range table[4][3] = {
        {bias_gelu_rows<float>, bias_gelu_rows<BFloat16>, bias_gelu_rows<Float16>},
        {depthwise_lines<float>, depthwise_lines<BFloat16>, depthwise_lines<Float16>},
        {norm_rows<float>, norm_rows<BFloat16>, norm_rows<Float16>},
        {add_norm_rows<float>, add_norm_rows<BFloat16>, add_norm_rows<Float16>},
    };
    return table[pass][storage == FLOAT32 ? 0 : storage - 1];
}
