// How numbers lie in memory and how they are computed with: half types widen to float32 when loaded.
// Included once for each instruction set, inside its namespace, so that nothing is shared between them.

#if defined(__GNUC__)
#define INLINE inline __attribute__((always_inline))
#else
#define INLINE __forceinline
#endif

struct BFloat16 {
    uint16_t bits;
};
struct Float16 {
    uint16_t bits;
};

template <typename T> struct Compute {
    using type = float;
};
template <> struct Compute<double> {
    using type = double;
};

INLINE float bits_to_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE uint32_t float_to_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

INLINE float widen(float value) { return value; }
INLINE double widen(double value) { return value; }
INLINE float widen(BFloat16 value) { return bits_to_float(uint32_t(value.bits) << 16); }
INLINE float widen(Float16 value) {
    // the exponent is moved to float32's place and rebased by a multiplication, which also normalises subnormals
    uint32_t magnitude = uint32_t(value.bits & 0x7fff) << 13;
    uint32_t bits = float_to_bits(bits_to_float(magnitude) * 0x1p112f);
    bits |= magnitude >= 0x0f800000u ? 0x7f800000u : 0u;  // infinity and NaN
    return bits_to_float(bits | uint32_t(value.bits & 0x8000) << 16);
}

INLINE void narrow(float value, float& result) { result = value; }
INLINE void narrow(double value, double& result) { result = value; }
INLINE void narrow(float value, BFloat16& result) {
    uint32_t bits = float_to_bits(value);
    uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;  // to nearest, ties to even
    result.bits = uint16_t(value == value ? rounded : (bits >> 16 | 0x40u));
}
INLINE void narrow(float value, Float16& result) {
    uint32_t bits = float_to_bits(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    uint32_t half;
    if (magnitude >= 0x47800000u) {  // 65536 and up, infinity, NaN
        half = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    } else if (magnitude < 0x38800000u) {  // subnormal: adding 0.5 leaves the rounded result in the low bits
        half = float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000u;
    } else {
        half = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
    }
    result.bits = uint16_t(half | sign);
}

// One number of a parameter tensor, whose storage need not be that of the maps.
template <typename Real> INLINE Real parameter(const void* from, int64_t storage, int64_t index) {
    switch (storage) {
        case FLOAT64: return Real(static_cast<const double*>(from)[index]);
        case BFLOAT16: return widen(static_cast<const BFloat16*>(from)[index]);
        case FLOAT16: return widen(static_cast<const Float16*>(from)[index]);
        default: return static_cast<const float*>(from)[index];
    }
}

// L numbers computed with at once.
#if defined(__GNUC__)
template <typename Real, int L> struct PackOf {
    typedef Real type __attribute__((vector_size(L * sizeof(Real))));
};
template <typename Real> struct PackOf<Real, 1> {
    using type = Real;
};
template <typename Real, int L> using Pack = typename PackOf<Real, L>::type;

template <int L> INLINE Pack<float, L> load(const float* from) {
    Pack<float, L> pack;
    memcpy(&pack, from, sizeof pack);
    return pack;
}
template <int L> INLINE Pack<double, L> load(const double* from) {
    Pack<double, L> pack;
    memcpy(&pack, from, sizeof pack);
    return pack;
}
// Sixteen bits each to thirty-two and back. GCC takes its own conversions of whole registers apart, hence the intrinsics.
template <int L> INLINE Pack<uint32_t, L> load_bits(const uint16_t* from) {
#if defined(X86_LANES)
    if constexpr (L == 8) return (Pack<uint32_t, L>)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)from));
#if X86_LANES == 16
    if constexpr (L == 16) return (Pack<uint32_t, L>)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)from));
#endif
#endif
    if constexpr (L == 1) {
        return *from;
    } else {
        Pack<uint16_t, L> bits;
        memcpy(&bits, from, sizeof bits);
        return __builtin_convertvector(bits, Pack<uint32_t, L>);
    }
}
template <int L> INLINE void store_bits(uint16_t* to, Pack<uint32_t, L> bits) {
#if defined(X86_LANES) && X86_LANES == 16
    if constexpr (L == 16) return _mm256_storeu_si256((__m256i*)to, _mm512_cvtepi32_epi16((__m512i)bits));
    if constexpr (L == 8) return _mm_storeu_si128((__m128i*)to, _mm256_cvtepi32_epi16((__m256i)bits));
#endif
    const Pack<uint16_t, L> low = __builtin_convertvector(bits, Pack<uint16_t, L>);
    memcpy(to, &low, sizeof low);
}

template <int L> INLINE Pack<float, L> load(const BFloat16* from) {
    if constexpr (L == 1) {
        return widen(*from);
    } else {
        return (Pack<float, L>)(load_bits<L>(&from->bits) << 16);
    }
}
template <int L> INLINE Pack<float, L> load(const Float16* from) {
#if defined(X86_LANES)
    if constexpr (L == 8) return (Pack<float, L>)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)from));
#if X86_LANES == 16
    if constexpr (L == 16) return (Pack<float, L>)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from));
#endif
#endif
    if constexpr (L == 1) {
        return widen(*from);
    } else {
        Pack<uint32_t, L> half = load_bits<L>(&from->bits), magnitude = (half & 0x7fffu) << 13;
        auto bits = (Pack<uint32_t, L>)((Pack<float, L>)magnitude * 0x1p112f);
        bits |= (Pack<uint32_t, L>)(magnitude >= 0x0f800000u) & 0x7f800000u;
        return (Pack<float, L>)(bits | (half & 0x8000u) << 16);
    }
}
template <int L> INLINE void store(float* to, Pack<float, L> pack) { memcpy(to, &pack, sizeof pack); }
template <int L> INLINE void store(double* to, Pack<double, L> pack) { memcpy(to, &pack, sizeof pack); }
#else
template <typename Real, int L> using Pack = Real;  // one lane: other compilers vectorise what they can
template <int L, typename T> INLINE typename Compute<T>::type load(const T* from) { return widen(*from); }
template <int L> INLINE void store(float* to, float number) { *to = number; }
template <int L> INLINE void store(double* to, double number) { *to = number; }
#endif

template <int L> INLINE Pack<uint32_t, L> bits_of(Pack<float, L> pack) {
    Pack<uint32_t, L> bits;
    memcpy(&bits, &pack, sizeof bits);
    return bits;
}
template <int L> INLINE Pack<float, L> float_of(Pack<uint32_t, L> bits) {
    Pack<float, L> pack;
    memcpy(&pack, &bits, sizeof pack);
    return pack;
}

// The sixteen upper bits of each number hold it as a bfloat16, rounded to nearest, ties to even; the lower ones are left over.
template <int L> INLINE Pack<uint32_t, L> rounded_to_bfloat16(Pack<float, L> pack) {
    const Pack<uint32_t, L> bits = bits_of<L>(pack);
    return pack == pack ? bits + 0x7fffu + (bits >> 16 & 1u) : bits | 0x400000u;
}

#if defined(__GNUC__)
template <int L> INLINE void store(BFloat16* to, Pack<float, L> pack) {
    if constexpr (L == 1) {
        narrow(pack, *to);
    } else {
        store_bits<L>(&to->bits, rounded_to_bfloat16<L>(pack) >> 16);
    }
}
template <int L> INLINE void store(Float16* to, Pack<float, L> pack) {
#if defined(X86_LANES)
    if constexpr (L == 8) return _mm_storeu_si128((__m128i*)to, _mm256_cvtps_ph((__m256)pack, _MM_FROUND_TO_NEAREST_INT));
#if X86_LANES == 16
    if constexpr (L == 16) return _mm256_storeu_si256((__m256i*)to, _mm512_cvtps_ph((__m512)pack, _MM_FROUND_TO_NEAREST_INT));
#endif
#endif
    float values[L];
    memcpy(values, &pack, sizeof values);
    for (int lane = 0; lane < L; ++lane) narrow(values[lane], to[lane]);
}
#else
template <int L> INLINE void store(BFloat16* to, float number) { narrow(number, *to); }
template <int L> INLINE void store(Float16* to, float number) { narrow(number, *to); }
#endif

// A strip of channels in registers. A sum over corners does not mind in which order its channels lie, so bfloat16 numbers stay
// in pairs: a register of pairs gives those at even and those at odd places by one instruction each, and takes them back so.
template <typename T, int STRIP, int WIDTH> struct Strip {
    using Real = typename Compute<T>::type;
#if defined(__GNUC__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    static constexpr bool PAIRS = std::is_same<T, BFloat16>::value && STRIP >= 8 && WIDTH > 1;
#else
    static constexpr bool PAIRS = false;
#endif
    static constexpr int MOST = PAIRS ? STRIP / 2 : STRIP;
    static constexpr int L = MOST < WIDTH ? MOST : WIDTH, BLOCKS = STRIP / L;

    Pack<Real, L> block[BLOCKS];

    INLINE void read(const T* from) {
        if constexpr (PAIRS) {
            for (int b = 0; b < BLOCKS; b += 2) {
                Pack<uint32_t, L> pairs;
                memcpy(&pairs, from + b * L, sizeof pairs);
                block[b] = float_of<L>(pairs << 16);
                block[b + 1] = float_of<L>(pairs & 0xffff0000u);
            }
        } else {
            for (int b = 0; b < BLOCKS; ++b) block[b] = load<L>(from + b * L);
        }
    }
    INLINE void write(T* to) const {
        if constexpr (PAIRS) {
            for (int b = 0; b < BLOCKS; b += 2) {
                const Pack<uint32_t, L> even = rounded_to_bfloat16<L>(block[b]), odd = rounded_to_bfloat16<L>(block[b + 1]);
                const Pack<uint32_t, L> pairs = even >> 16 | (odd & 0xffff0000u);
                memcpy(to + b * L, &pairs, sizeof pairs);
            }
        } else {
            for (int b = 0; b < BLOCKS; ++b) store<L>(to + b * L, block[b]);
        }
    }
};

template <typename Real, int L> INLINE Real lane_of(const Pack<Real, L>& pack, int lane) {
    if constexpr (L == 1) {
        return pack;
    } else {
        return pack[lane];
    }
}

// The sums over the lanes of four packs, added to four numbers in a row.
template <typename Real, int L>
INLINE void add_sums(Real* to, Pack<Real, L> a, Pack<Real, L> b, Pack<Real, L> c, Pack<Real, L> d) {
#if defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 12)
    if constexpr (sizeof(Real) == 4 && L == 16) {
#define LANES_OF(i, j, k, l)                                                                                     \
    i, j, k, l, i + 4, j + 4, k + 4, l + 4, i + 8, j + 8, k + 8, l + 8, i + 12, j + 12, k + 12, l + 12
        auto ab = __builtin_shufflevector(a, b, LANES_OF(0, 16, 1, 17)) + __builtin_shufflevector(a, b, LANES_OF(2, 18, 3, 19));
        auto cd = __builtin_shufflevector(c, d, LANES_OF(0, 16, 1, 17)) + __builtin_shufflevector(c, d, LANES_OF(2, 18, 3, 19));
        auto quarters = __builtin_shufflevector(ab, cd, LANES_OF(0, 1, 16, 17)) + __builtin_shufflevector(ab, cd, LANES_OF(2, 3, 18, 19));
#undef LANES_OF
        auto halves = __builtin_shufflevector(quarters, quarters, 0, 1, 2, 3, 4, 5, 6, 7) +
                      __builtin_shufflevector(quarters, quarters, 8, 9, 10, 11, 12, 13, 14, 15);
        auto sums = __builtin_shufflevector(halves, halves, 0, 1, 2, 3) + __builtin_shufflevector(halves, halves, 4, 5, 6, 7);
        store<4>(to, load<4>(to) + sums);
        return;
    } else if constexpr (sizeof(Real) == 4 && L == 8) {
#define LANES_OF(i, j, k, l) i, j, k, l, i + 4, j + 4, k + 4, l + 4
        auto ab = __builtin_shufflevector(a, b, LANES_OF(0, 8, 1, 9)) + __builtin_shufflevector(a, b, LANES_OF(2, 10, 3, 11));
        auto cd = __builtin_shufflevector(c, d, LANES_OF(0, 8, 1, 9)) + __builtin_shufflevector(c, d, LANES_OF(2, 10, 3, 11));
        auto halves = __builtin_shufflevector(ab, cd, LANES_OF(0, 1, 8, 9)) + __builtin_shufflevector(ab, cd, LANES_OF(2, 3, 10, 11));
#undef LANES_OF
        auto sums = __builtin_shufflevector(halves, halves, 0, 1, 2, 3) + __builtin_shufflevector(halves, halves, 4, 5, 6, 7);
        store<4>(to, load<4>(to) + sums);
        return;
    }
#endif
    for (int lane = 0; lane < L; ++lane) {
        to[0] += lane_of<Real, L>(a, lane);
        to[1] += lane_of<Real, L>(b, lane);
        to[2] += lane_of<Real, L>(c, lane);
        to[3] += lane_of<Real, L>(d, lane);
    }
}
