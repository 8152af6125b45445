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
template <int L> INLINE Pack<uint32_t, L> load_bits(const uint16_t* from) {
    if constexpr (L == 1) {
        return *from;
    } else {
        Pack<uint16_t, L> bits;
        memcpy(&bits, from, sizeof bits);
        return __builtin_convertvector(bits, Pack<uint32_t, L>);
    }
}
template <int L> INLINE Pack<float, L> load(const BFloat16* from) {
    if constexpr (L == 1) {
        return widen(*from);
    } else {
        return (Pack<float, L>)(load_bits<L>(&from->bits) << 16);
    }
}
template <int L> INLINE Pack<float, L> load(const Float16* from) {
    if constexpr (L == 1) {
        return widen(*from);
    } else {
        Pack<uint32_t, L> half = load_bits<L>(&from->bits), magnitude = (half & 0x7fffu) << 13;
        auto bits = (Pack<uint32_t, L>)((Pack<float, L>)magnitude * 0x1p112f);
        bits |= (Pack<uint32_t, L>)(magnitude >= 0x0f800000u) & 0x7f800000u;
        return (Pack<float, L>)(bits | (half & 0x8000u) << 16);
    }
}
template <int L, typename Real> INLINE void store(Real* to, Pack<Real, L> pack) { memcpy(to, &pack, sizeof pack); }
#else
template <typename Real, int L> using Pack = Real;  // one lane: other compilers vectorise what they can
template <int L, typename T> INLINE typename Compute<T>::type load(const T* from) { return widen(*from); }
template <int L, typename Real> INLINE void store(Real* to, Real pack) { *to = pack; }
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
        store<4, Real>(to, load<4>(to) + sums);
        return;
    } else if constexpr (sizeof(Real) == 4 && L == 8) {
#define LANES_OF(i, j, k, l) i, j, k, l, i + 4, j + 4, k + 4, l + 4
        auto ab = __builtin_shufflevector(a, b, LANES_OF(0, 8, 1, 9)) + __builtin_shufflevector(a, b, LANES_OF(2, 10, 3, 11));
        auto cd = __builtin_shufflevector(c, d, LANES_OF(0, 8, 1, 9)) + __builtin_shufflevector(c, d, LANES_OF(2, 10, 3, 11));
        auto halves = __builtin_shufflevector(ab, cd, LANES_OF(0, 1, 8, 9)) + __builtin_shufflevector(ab, cd, LANES_OF(2, 3, 10, 11));
#undef LANES_OF
        auto sums = __builtin_shufflevector(halves, halves, 0, 1, 2, 3) + __builtin_shufflevector(halves, halves, 4, 5, 6, 7);
        store<4, Real>(to, load<4>(to) + sums);
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
