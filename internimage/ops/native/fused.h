// Passes of the network around the operator, fused for inference: each reads its input once and writes its output once.
// Included once for each instruction set, inside its namespace, after storage.h.

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
    return x * p / q;
}

template <int L> INLINE Pack<float, L> gelu_of(Pack<float, L> x) {
    return 0.5f * x * (1.0f + erf_of<L>(x * 0.70710678f));
}

// The sum of one register's lanes, by halves: a running sum would wait for itself at every lane.
INLINE float sum_of(Pack<float, LANES> pack) {
    float lanes[LANES];
    store<LANES>(lanes, pack);
    for (int half = LANES / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    }
    return lanes[0];
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
    template <typename T> INLINE void write(int64_t row, T* to) const {
        for (int64_t c = 0; c < channels; ++c) narrow(at(row)[c], to[c]);
    }
    INLINE void write(int64_t row, float* to) const { memcpy(to, at(row), channels * sizeof(float)); }
};

// Layer normalisation of one row: mean and variance over the channels, then weight and bias.
INLINE void normalise(float* values, const Rows& weight, const Rows& bias, float eps) {
    const int64_t channels = weight.channels, whole = channels / LANES * LANES;
    Pack<float, LANES> sum = {};
    for (int64_t c = 0; c < whole; c += LANES) sum += load<LANES>(values + c);
    float total = sum_of(sum);
    for (int64_t c = whole; c < channels; ++c) total += values[c];
    const float mean = total / float(channels);
    Pack<float, LANES> squares = {};
    for (int64_t c = 0; c < whole; c += LANES) {
        const Pack<float, LANES> centred = load<LANES>(values + c) - mean;
        squares += centred * centred;
    }
    total = sum_of(squares);
    for (int64_t c = whole; c < channels; ++c) total += (values[c] - mean) * (values[c] - mean);
    const float scale = 1.0f / std::sqrt(total / float(channels) + eps);
    for (int64_t c = 0; c < weight.padded; c += LANES) {
        const Pack<float, LANES> centred = load<LANES>(values + c) - mean;
        store<LANES>(values + c, centred * scale * load<LANES>(weight.at(0) + c) + load<LANES>(bias.at(0) + c));
    }
}

template <typename T> void bias_gelu_rows(int64_t begin, int64_t end, void* context) {
    const auto& p = *static_cast<const FusedProblem*>(context);
    Rows row(1, p.channels), bias(1, p.channels);
    bias.read(0, static_cast<const T*>(p.bias));
    for (int64_t r = begin; r < end; ++r) {
        row.read(0, static_cast<const T*>(p.input) + r * p.channels);
        for (int64_t c = 0; c < row.padded; c += LANES) {
            store<LANES>(row.at(0) + c, gelu_of<LANES>(load<LANES>(row.at(0) + c) + load<LANES>(bias.at(0) + c)));
        }
        row.write(0, static_cast<T*>(p.output) + r * p.channels);
    }
}

// Layer norm of each row, and beside it the row plus a bias, if there is one.
template <typename T> void norm_rows(int64_t begin, int64_t end, void* context) {
    const auto& p = *static_cast<const FusedProblem*>(context);
    Rows row(1, p.channels), sum(1, p.channels), bias(1, p.channels), norm_weight(1, p.channels), norm_bias(1, p.channels);
    if (p.bias != nullptr) bias.read(0, static_cast<const T*>(p.bias));
    norm_weight.read(0, static_cast<const T*>(p.norm_weight));
    norm_bias.read(0, static_cast<const T*>(p.norm_bias));
    for (int64_t r = begin; r < end; ++r) {
        row.read(0, static_cast<const T*>(p.input) + r * p.channels);
        for (int64_t c = 0; c < row.padded; c += LANES) {
            store<LANES>(sum.at(0) + c, load<LANES>(row.at(0) + c) + load<LANES>(bias.at(0) + c));
        }
        sum.write(0, static_cast<T*>(p.sum) + r * p.channels);
        normalise(row.at(0), norm_weight, norm_bias, float(p.eps));
        row.write(0, static_cast<T*>(p.output) + r * p.channels);
    }
}

// Depthwise convolution, layer norm and GELU.
template <typename T> struct Depthwise {
    const FusedProblem& p;
    Rows kernel, bias, norm_weight, norm_bias, line;

    explicit Depthwise(const FusedProblem& problem)
        : p(problem), kernel(p.kernel_h * p.kernel_w, p.channels), bias(1, p.channels), norm_weight(1, p.channels),
          norm_bias(1, p.channels), line(p.w_out, p.channels) {
        const int64_t taps = p.kernel_h * p.kernel_w;
        for (int64_t c = 0; c < p.channels; ++c) {
            for (int64_t t = 0; t < taps; ++t) kernel.at(t)[c] = widen(static_cast<const T*>(p.weight)[c * taps + t]);
        }
        bias.read(0, static_cast<const T*>(p.bias));
        norm_weight.read(0, static_cast<const T*>(p.norm_weight));
        norm_bias.read(0, static_cast<const T*>(p.norm_bias));
    }

    void run(int64_t index) {
        const T* image = static_cast<const T*>(p.input) + index / p.h_out * p.h * p.w * p.channels;
        T* output = static_cast<T*>(p.output) + index * p.w_out * p.channels;
        for (int64_t x = 0; x < p.w_out; ++x) convolve(image, index % p.h_out, x);
        for (int64_t x = 0; x < p.w_out; ++x) normalise(line.at(x), norm_weight, norm_bias, float(p.eps));
        float* values = line.at(0);
        for (int64_t c = 0; c < p.w_out * line.padded; c += LANES) {
            store<LANES>(values + c, gelu_of<LANES>(load<LANES>(values + c)));
        }
        for (int64_t x = 0; x < p.w_out; ++x) line.write(x, output + x * p.channels);
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
    static const Range table[3][3] = {
        {bias_gelu_rows<float>, bias_gelu_rows<BFloat16>, bias_gelu_rows<Float16>},
        {depthwise_lines<float>, depthwise_lines<BFloat16>, depthwise_lines<Float16>},
        {norm_rows<float>, norm_rows<BFloat16>, norm_rows<Float16>},
    };
    return table[pass][storage == FLOAT32 ? 0 : storage - 1];
}
