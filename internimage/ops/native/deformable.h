// Deformable convolution and attention, forward and backward, on the CPU. Included once for each instruction set, inside
// its namespace, after storage.h and LANES (float32 numbers a register holds).
//
// The output is worked on in tiles: some neighbouring pixels of a line and some whole groups. Each (pixel, group, tap) of
// a tile is a "lane": first the positions, weights and validity of all lanes are computed, plain loops that compilers
// vectorise; then each lane's four corners are read, one strip of channels at a time. The backward pass first gathers,
// for every lane, the products of the output's gradient with the four corners; gradients of offset and mask follow from
// those in a loop over lanes.

// exp(x) = 2^n * exp(r) with |r| <= ln(2)/2 and a polynomial for exp(r): two units in the last place at most. For x <= 30.
template <int L> INLINE Pack<float, L> exp_of(Pack<float, L> x) {
    const Pack<float, L> none = {}, lowest = none - 87.0f;
    const Pack<float, L> kept = x < lowest ? lowest : x;
    const Pack<float, L> shifted = kept * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the sum's low bits are the integer n
    const Pack<float, L> n = shifted - 12582912.0f;
    const Pack<float, L> r = (kept - n * 0.693359375f) + n * 2.12194440e-4f;
    Pack<float, L> p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    const Pack<float, L> power = float_of<L>((bits_of<L>(shifted) << 23) + 0x3f800000u);
    return x < lowest ? none : (p * r * r + r + 1.0f) * power;
}

INLINE void exp_all(double* values, int64_t count) {
    for (int64_t i = 0; i < count; ++i) values[i] = std::exp(values[i]);
}

INLINE void exp_all(float* values, int64_t count) {  // count: a multiple of LANES
    for (int64_t i = 0; i < count; i += LANES) store<LANES>(values + i, exp_of<LANES>(load<LANES>(values + i)));
}

// What is known of the lanes of one tile. One allocation, reused for all tiles.
template <typename Real> struct Tile {
    int64_t pixels, groups, capacity;  // the most it is used for; lanes, in whole registers
    std::unique_ptr<Real[]> memory;
    std::unique_ptr<int32_t[]> integers;
    Real *tap_x, *tap_y;           // dilated kernel coordinates; of attention the width and height of the lane's level
    Real* column;                  // of the pixel, counted from the first one of the tile, in input pixels
    Real *offset_x, *offset_y;     // learned offsets; of attention sampling locations
    Real *mask;                    // as given, or exponentials of the logits
    Real *right, *lower;           // fractions of the way to the right and lower corner
    Real* weight[4];               // mask * bilinear weight: upper left, upper right, lower left, lower right
    Real* dots;                    // backward, four a lane: gradient of the output times each corner
    int32_t *pixel, *corners;      // y * w + x of the upper left corner; bit k: corner k lies inside the map
    int32_t *line, *start;         // of attention: width of the lane's level, and its first pixel

    Tile(int64_t pixels, int64_t groups, int64_t taps)
        : pixels(pixels), groups(groups), capacity((pixels * groups * taps + 15) / 16 * 16) {
        memory.reset(new Real[capacity * 16]());
        integers.reset(new int32_t[capacity * 4]());
        Real** arrays[] = {&tap_x, &tap_y, &column, &offset_x, &offset_y, &mask, &right, &lower,
                           &weight[0], &weight[1], &weight[2], &weight[3]};
        Real* next = memory.get();
        for (Real** array : arrays) {
            *array = next;
            next += capacity;
        }
        dots = next;
        pixel = integers.get();
        corners = pixel + capacity;
        line = corners + capacity;
        start = line + capacity;
    }
};

template <typename T, bool LEVELS> struct Deformable {
    using Real = typename Compute<T>::type;
    static constexpr int64_t NEAR = 1 << 19;  // bytes, half of a small second-level cache
    static constexpr int WIDTH = sizeof(Real) == 8 && LANES > 1 ? LANES / 2 : LANES;

    const DeformableProblem& p;
    const int64_t taps, channels;
    const Real scale;
    const std::unique_ptr<Real[]> biases;  // of x, then y, then the mask, for each (group, tap); zeros where there are none
    // What the corners outside the map are read as: zeros; or minus the input's bias, which is then added once at the end,
    // times the sum of the group's mask, which the weights of all corners, inside or not, add up to.
    const std::unique_ptr<T[]> outside;

    explicit Deformable(const DeformableProblem& problem)
        : p(problem), taps(problem.taps()), channels(problem.channels()), scale(Real(problem.offset_scale)),
          biases(new Real[problem.groups * problem.taps() * 3]()), outside(new T[problem.channels()]()) {
        const int64_t count = p.groups * taps;
        for (int64_t i = 0; p.offset_bias != nullptr && i < count; ++i) {
            const int64_t at = i / taps * p.offset_bias_group + i % taps * 2;
            biases[i] = parameter<Real>(p.offset_bias, p.bias_storage, at);
            biases[count + i] = parameter<Real>(p.offset_bias, p.bias_storage, at + 1);
        }
        for (int64_t i = 0; p.mask_bias != nullptr && i < count; ++i) {
            biases[2 * count + i] = parameter<Real>(p.mask_bias, p.bias_storage, i / taps * p.mask_bias_group + i % taps);
        }
        for (int64_t c = 0; p.input_bias != nullptr && c < channels; ++c) {
            narrow(-parameter<Real>(p.input_bias, p.bias_storage, c), outside[c]);
        }
    }

    // A tile for at most `groups` groups, as large as the nearest cache likes.
    Tile<Real> make_tile(int64_t groups) const {
        const int64_t room = taps > 0 && 288 / taps > 1 ? 288 / taps : 1;
        groups = groups < room ? groups : room;
        Tile<Real> tile(room / groups < p.w_out ? room / groups : p.w_out, groups, taps);
        for (int64_t x = 0, lane = 0; x < tile.pixels; ++x) {
            for (int64_t g = 0; g < groups; ++g) lane = LEVELS ? lay_levels(tile, lane) : lay_kernel(tile, lane, x);
        }
        return tile;
    }

    // The taps of one group, from `lane` on; returns the lane behind them.
    int64_t lay_kernel(Tile<Real>& tile, int64_t lane, int64_t x) const {
        for (int64_t i = 0; i < p.kernel_w; ++i) {
            for (int64_t j = 0; j < p.kernel_h; ++j) {
                if (p.remove_center && i == p.kernel_w / 2 && j == p.kernel_h / 2) continue;
                tile.tap_x[lane] = Real(i * p.dilation_w);
                tile.tap_y[lane] = Real(j * p.dilation_h);
                tile.column[lane++] = Real(x * p.stride_w);
            }
        }
        return lane;
    }

    int64_t lay_levels(Tile<Real>& tile, int64_t lane) const {
        int64_t start = 0;
        for (int64_t level = 0; level < p.level_count; ++level) {
            const int64_t height = p.levels[2 * level], width = p.levels[2 * level + 1];
            const Real to_pixels = height * width > 0 ? Real(width) : Real(-1);  // then no position is between -1 and the width
            for (int64_t i = 0; i < p.points; ++i, ++lane) {
                tile.tap_x[lane] = to_pixels;
                tile.tap_y[lane] = Real(height);
                tile.line[lane] = int32_t(width);
                tile.start[lane] = int32_t(start);
            }
            start += height * width;
        }
        return lane;
    }

    // Pixels from x on that one tile takes: fewer groups than the tile was made for leave room for a single pixel only.
    int64_t pixels_from(const Tile<Real>& tile, int64_t x, int64_t end, int64_t groups) const {
        const int64_t left = end - x;
        return groups < tile.groups ? 1 : left < tile.pixels ? left : tile.pixels;
    }

    // Positions, weights and validity of the lanes of groups [first, first + groups) at output pixels (y, x) to
    // (y, x + pixels - 1); `row` counts output pixels over all images.
    void locate(Tile<Real>& tile, int64_t row, int64_t y, int64_t x, int64_t pixels, int64_t first, int64_t groups) const {
        const int64_t each = groups * taps, lanes = pixels * each, count = p.groups * taps;
        // groups side by side are one long run
        const bool joined = p.offset_group == 2 * taps && p.mask_group == taps;
        const int64_t length = joined ? each : taps;
        with_offsets(p.offset, [&](const auto* offsets) {
            for (int64_t k = 0; k < pixels; ++k) {
                const auto* offset = offsets + (row + k) * p.offset_row + first * p.offset_group;
                const T* mask = static_cast<const T*>(p.mask) + (row + k) * p.mask_row + first * p.mask_group;
                const Real* bias = biases.get() + first * taps;
                for (int64_t lane = k * each; lane < (k + 1) * each; lane += length) {
                    read(tile, lane, length, offset, mask, bias, count);
                    offset += p.offset_group, mask += p.mask_group, bias += length;
                }
            }
        });
        if (p.softmax) exponentials(tile.mask, pixels * groups);
        if constexpr (LEVELS) {
            place_in_levels(tile, lanes);
        } else {
            place_around(tile, lanes, y, x);
        }
    }

    // Offsets, or their gradient, by the type they are stored in.
    template <typename Void, typename Use> INLINE void with_offsets(Void* at, Use use) const {
        constexpr bool CONST = std::is_const<Void>::value;
        using Same = typename std::conditional<CONST, const T, T>::type;
        using Wide = typename std::conditional<CONST, const Real, Real>::type;
        if (std::is_same<T, Real>::value || p.offset_storage == p.storage) return use(static_cast<Same*>(at));
        use(static_cast<Wide*>(at));
    }

    // Offsets and mask of some lanes, biases added.
    template <typename Offset>
    INLINE void read(Tile<Real>& tile, int64_t lane, int64_t length, const Offset* offset, const T* mask, const Real* bias,
                     int64_t count) const {
        Real *to_x = tile.offset_x + lane, *to_y = tile.offset_y + lane, *to_mask = tile.mask + lane;
        const Real *bias_y = bias + count, *bias_mask = bias_y + count;
        for (int64_t i = 0; i < length; ++i) {
            to_x[i] = widen(offset[2 * i]) + bias[i];
            to_y[i] = widen(offset[2 * i + 1]) + bias_y[i];
        }
        for (int64_t i = 0; i < length; ++i) to_mask[i] = widen(mask[i]) + bias_mask[i];
    }

    // Samples around the output pixels of a convolution.
    void place_around(Tile<Real>& tile, int64_t lanes, int64_t y, int64_t x) const {
        const Real column = Real(p.origin_x) + Real(x * p.stride_w), line = Real(p.origin_y) + Real(y * p.stride_h);
        const Real width = Real(p.w), height = Real(p.h), scale = this->scale;
        const int32_t w = int32_t(p.w), h = int32_t(p.h);
        const Real *tap_x = tile.tap_x, *tap_y = tile.tap_y, *offset_x = tile.offset_x, *offset_y = tile.offset_y;
        const Real* step = tile.column;
        const Placed to(tile, p.input_bias != nullptr);
        const int64_t padded = (lanes + 15) / 16 * 16;  // whole registers; what lies behind the last lane is never used
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC ivdep
#endif
        for (int64_t i = 0; i < padded; ++i) {
            const Real sample_x = (column + step[i]) + (offset_x[i] + tap_x[i]) * scale;
            const Real sample_y = line + (offset_y[i] + tap_y[i]) * scale;
            to.put(i, sample_x, sample_y, width, height, w, h, 0);
        }
    }

    // Samples of attention, each in its level.
    void place_in_levels(Tile<Real>& tile, int64_t lanes) const {
        const Real *width = tile.tap_x, *height = tile.tap_y, *location_x = tile.offset_x, *location_y = tile.offset_y;
        const int32_t *line = tile.line, *start = tile.start;
        const Placed to(tile, p.input_bias != nullptr);
        const int64_t padded = (lanes + 15) / 16 * 16;
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC ivdep
#endif
        for (int64_t i = 0; i < padded; ++i) {
            const Real x = location_x[i] * width[i] - Real(0.5), y = location_y[i] * height[i] - Real(0.5);
            to.put(i, x, y, width[i], height[i], line[i], int32_t(height[i]), start[i]);
        }
    }

    // Where the numbers of a tile's samples go.
    struct Placed {
        const Real* weigh;
        Real *right, *lower, *weight0, *weight1, *weight2, *weight3;
        int32_t *pixel, *corners;
        const bool all;  // samples far away keep their weights, for the sake of the input's bias

        Placed(Tile<Real>& tile, bool all)
            : weigh(tile.mask), right(tile.right), lower(tile.lower), weight0(tile.weight[0]), weight1(tile.weight[1]),
              weight2(tile.weight[2]), weight3(tile.weight[3]), pixel(tile.pixel), corners(tile.corners), all(all) {}

        INLINE void put(int64_t i, Real x, Real y, Real width, Real height, int32_t w, int32_t h, int32_t start) const {
            // false for NaN; whatever is far away is computed at (0, 0) and masked out
            const bool inside = (x > Real(-1)) & (x < width) & (y > Real(-1)) & (y < height);
            x = inside ? x : Real(0);
            y = inside ? y : Real(0);
            int32_t x0 = int32_t(x), y0 = int32_t(y);  // towards zero, then down to the floor
            x0 -= Real(x0) > x;
            y0 -= Real(y0) > y;
            const Real to_right = x - Real(x0), to_lower = y - Real(y0);
            const Real given = weigh[i];  // loaded at any rate, or the loop would not be vectorised
            const Real weight = inside | all ? given : Real(0);  // it may be NaN where nothing is sampled
            const Real upper_mask = (Real(1) - to_lower) * weight, lower_mask = to_lower * weight;
            right[i] = to_right;
            lower[i] = to_lower;
            weight0[i] = (Real(1) - to_right) * upper_mask;
            weight1[i] = to_right * upper_mask;
            weight2[i] = (Real(1) - to_right) * lower_mask;
            weight3[i] = to_right * lower_mask;
            pixel[i] = start + y0 * w + x0;
            const int32_t columns = (x0 >= 0 ? 5 : 0) | (x0 + 1 < w ? 10 : 0);
            const int32_t lines = (y0 >= 0 ? 3 : 0) | (y0 + 1 < h ? 12 : 0);
            corners[i] = inside ? columns & lines : 0;
        }
    };

    // Exponentials of the logits; each group's share of its sum is taken later, by whoever uses the mask.
    void exponentials(Real* mask, int64_t groups) const {
        const int64_t lanes = groups * taps, padded = (lanes + 15) / 16 * 16;
        for (int64_t i = lanes; i < padded; ++i) mask[i] = 0;
        // up to here exponentials, and samples of 1e24 times as much, neither overflow nor vanish
        const Real most = 30;
        int32_t large = 0;  // counts NaN too
        for (int64_t i = 0; i < padded; ++i) large += !((mask[i] < most) & (mask[i] > -most));
        if (large) {  // only then is the largest logit taken off first
            for (int64_t g = 0; g < groups; ++g) {
                Real* values = mask + g * taps;
                Real highest = values[0], lowest = values[0];
                for (int64_t t = 1; t < taps; ++t) {
                    highest = values[t] > highest ? values[t] : highest;
                    lowest = values[t] < lowest ? values[t] : lowest;
                }
                if ((highest < most) & (lowest > -most)) continue;  // no group's numbers depend on its neighbours
                for (int64_t t = 0; t < taps; ++t) values[t] -= highest;
            }
        }
        exp_all(mask, padded);
    }

    INLINE Real mask_sum(const Tile<Real>& tile, int64_t lane) const {
        Real sum = 0;
        for (int64_t i = lane; i < lane + taps; ++i) sum += tile.mask[i];
        return sum;
    }

    void normalise(Tile<Real>& tile, int64_t groups) const {
        if (!p.softmax) return;
        for (int64_t g = 0; g < groups; ++g) {
            const Real share = Real(1) / mask_sum(tile, g * taps);
            for (int64_t i = g * taps; i < (g + 1) * taps; ++i) {
                tile.mask[i] *= share;
                for (int k = 0; k < 4; ++k) tile.weight[k][i] *= share;
            }
        }
    }

    // ---- forward ----

    // Output pixels [begin, end), counted over all images.
    void forward_pixels(int64_t begin, int64_t end) const {
        Tile<Real> tile = make_tile(p.groups);
        const int64_t image = p.h_out * p.w_out, strip = strip_of(sizeof(T));
        for (int64_t start = begin; start < end;) {
            const int64_t stop = (start / image + 1) * image < end ? (start / image + 1) * image : end;
            for (int64_t left = 0; left < p.w_out; left += strip) {
                for (int64_t line = start / p.w_out; line * p.w_out < stop; ++line) {
                    const int64_t right = left + strip < p.w_out ? left + strip : p.w_out, row = line * p.w_out;
                    forward_line(tile, line, start - row > left ? start - row : left, stop - row < right ? stop - row : right);
                }
            }
            start = stop;
        }
    }

    // Pixels [x, stop) of one line; lines are counted over all images.
    void forward_line(Tile<Real>& tile, int64_t line, int64_t x, int64_t stop) const {
        const T* input = static_cast<const T*>(p.input) + line / p.h_out * p.h * p.w * channels;
        while (x < stop) {
            const int64_t pixels = pixels_from(tile, x, stop, p.groups), row = line * p.w_out + x;
            T* output = static_cast<T*>(p.output) + row * channels;
            for (int64_t first = 0; first < p.groups; first += tile.groups) {
                const int64_t groups = p.groups - first < tile.groups ? p.groups - first : tile.groups;
                locate(tile, row, line % p.h_out, x, pixels, first, groups);
                for (int64_t k = 0; k < pixels; ++k) {
                    for (int64_t g = 0; g < groups; ++g) {
                        const int64_t lane = (k * groups + g) * taps, channel = (first + g) * p.depth;
                        const Real sum = p.softmax || p.input_bias != nullptr ? mask_sum(tile, lane) : Real(1);
                        // samples are weighed with exponentials whose sum is not one yet, or with the mask itself
                        const Real share = p.softmax ? Real(1) / sum : Real(1), biased = p.softmax ? Real(1) : sum;
                        gather(tile, lane, share, biased, input + channel, outside.get() + channel,
                               output + k * channels + channel);
                    }
                }
            }
            x += pixels;
        }
    }

    // Columns to work on from top to bottom before the next ones, so that the lines of the map around the one in hand stay in
    // the nearer caches; `size` counts the bytes of what is kept of a channel.
    int64_t strip_of(int64_t size) const {
        if (LEVELS) return p.w_out > 0 ? p.w_out : 1;
        const int64_t lines = 16 + p.dilation_h * (p.kernel_h - 1), fit = NEAR / (lines * channels * size * p.stride_w);
        return fit > 16 ? fit / 16 * 16 : 16;
    }

    // The weighted sum of one group's samples times its share, and so often the input's bias, in strips of channels from wide
    // to narrow.
    void gather(const Tile<Real>& tile, int64_t lane, Real share, Real biased, const T* input, const T* beyond, T* output) const {
        int64_t c = 0;
        for (; p.depth - c >= 32; c += 32) gather_strip<32>(tile, lane, share, biased, input + c, beyond + c, output + c);
        if (p.depth - c >= 16) gather_strip<16>(tile, lane, share, biased, input + c, beyond + c, output + c), c += 16;
        if (p.depth - c >= 8) gather_strip<8>(tile, lane, share, biased, input + c, beyond + c, output + c), c += 8;
        if (p.depth - c >= 4) gather_strip<4>(tile, lane, share, biased, input + c, beyond + c, output + c), c += 4;
        for (; c < p.depth; ++c) gather_strip<1>(tile, lane, share, biased, input + c, beyond + c, output + c);
    }

    template <int STRIP>
    INLINE void gather_strip(const Tile<Real>& tile, int64_t lane, Real share, Real biased, const T* input, const T* beyond,
                             T* output) const {
        using Channels = Strip<T, STRIP, WIDTH>;
        constexpr int L = Channels::L, BLOCKS = Channels::BLOCKS;
        const int64_t to_right = channels;
        constexpr int CHAINS = BLOCKS == 1 ? 4 : BLOCKS == 2 ? 2 : 1;  // sums in parallel, as far as registers go
        Pack<Real, L> sums[CHAINS][BLOCKS] = {};
        for (int64_t i = lane; i < lane + taps; ++i) {
            const T* corner = input + tile.pixel[i] * channels;
            const int64_t to_lower = (LEVELS ? tile.line[i] : p.w) * channels;
            const int32_t corners = tile.corners[i];
            Channels upper_left, upper_right, lower_left, lower_right;
            if (corners == 15) {
                upper_left.read(corner);
                upper_right.read(corner + to_right);
                lower_left.read(corner + to_lower);
                lower_right.read(corner + to_lower + to_right);
            } else {  // corners outside the map are read from a row of their own, which costs less than a branch each
                upper_left.read(corners & 1 ? corner : beyond);
                upper_right.read(corners & 2 ? corner + to_right : beyond);
                lower_left.read(corners & 4 ? corner + to_lower : beyond);
                lower_right.read(corners & 8 ? corner + to_lower + to_right : beyond);
            }
            for (int b = 0; b < BLOCKS; ++b) {
                sums[0][b] += tile.weight[0][i] * upper_left.block[b];
                sums[1 % CHAINS][b] += tile.weight[1][i] * upper_right.block[b];
                sums[2 % CHAINS][b] += tile.weight[2][i] * lower_left.block[b];
                sums[3 % CHAINS][b] += tile.weight[3][i] * lower_right.block[b];
            }
        }
        Channels sum, bias;
        bias.read(beyond);
        for (int b = 0; b < BLOCKS; ++b) {
            sum.block[b] = sums[0][b];
            for (int chain = 1; chain < CHAINS; ++chain) sum.block[b] += sums[chain][b];
            sum.block[b] = sum.block[b] * share - bias.block[b] * biased;
        }
        sum.write(output);
    }

    // ---- backward ----

    // Slices are (image, group) pairs: what one slice adds to grad_input no other touches, so the sums have one order.
    void backward_slices(int64_t begin, int64_t end) const {
        Tile<Real> tile = make_tile(end - begin < p.groups ? end - begin : p.groups);
        const int64_t strip = strip_of(sizeof(T) + sizeof(Real));
        for (int64_t slice = begin; slice < end;) {
            const int64_t image = slice / p.groups, first = slice % p.groups;
            int64_t groups = p.groups - first < end - slice ? p.groups - first : end - slice;
            if (groups > tile.groups) groups = tile.groups;
            for (int64_t left = 0; left < p.w_out; left += strip) {
                const int64_t right = left + strip < p.w_out ? left + strip : p.w_out;
                for (int64_t y = 0; y < p.h_out; ++y) {
                    for (int64_t x = left; x < right;) {
                        const int64_t pixels = pixels_from(tile, x, right, groups);
                        backward_tile(tile, image, y, x, pixels, first, groups);
                        x += pixels;
                    }
                }
            }
            slice += groups;
        }
    }

    void backward_tile(Tile<Real>& tile, int64_t image, int64_t y, int64_t x, int64_t pixels, int64_t first, int64_t groups) const {
        const int64_t map = image * p.h * p.w * channels, row = (image * p.h_out + y) * p.w_out + x;
        const T* input = static_cast<const T*>(p.input) + map;
        Real* grad_input = static_cast<Real*>(p.grad_input) + map;
        locate(tile, row, y, x, pixels, first, groups);
        normalise(tile, pixels * groups);
        for (int64_t i = 0; i < 4 * pixels * groups * taps; ++i) tile.dots[i] = 0;
        for (int64_t k = 0; k < pixels; ++k) {
            const T* grad_output = static_cast<const T*>(p.grad_output) + (row + k) * channels;
            for (int64_t g = 0; g < groups; ++g) {
                const int64_t channel = (first + g) * p.depth;
                scatter(tile, (k * groups + g) * taps, input + channel, grad_output + channel, grad_input + channel);
            }
        }
        finish(tile, row, pixels, first, groups);
    }

    void scatter(Tile<Real>& tile, int64_t lane, const T* input, const T* grad_output, Real* grad_input) const {
        int64_t c = 0;
        for (; p.depth - c >= 32; c += 32) scatter_strip<32>(tile, lane, input + c, grad_output + c, grad_input + c);
        if (p.depth - c >= 16) scatter_strip<16>(tile, lane, input + c, grad_output + c, grad_input + c), c += 16;
        if (p.depth - c >= 8) scatter_strip<8>(tile, lane, input + c, grad_output + c, grad_input + c), c += 8;
        if (p.depth - c >= 4) scatter_strip<4>(tile, lane, input + c, grad_output + c, grad_input + c), c += 4;
        for (; c < p.depth; ++c) scatter_strip<1>(tile, lane, input + c, grad_output + c, grad_input + c);
    }

    template <int STRIP>
    INLINE void scatter_strip(Tile<Real>& tile, int64_t lane, const T* input, const T* grad_output, Real* grad_input) const {
        constexpr int L = STRIP < WIDTH ? STRIP : WIDTH, BLOCKS = STRIP / L;
        Pack<Real, L> grad[BLOCKS];
        for (int b = 0; b < BLOCKS; ++b) grad[b] = load<L>(grad_output + b * L);
        for (int64_t i = lane; i < lane + taps; ++i) {
            const int32_t corners = tile.corners[i];
            if (!corners) continue;
            const int64_t to_right = channels, to_lower = (LEVELS ? tile.line[i] : p.w) * channels;
            const int64_t step[4] = {0, to_right, to_lower, to_lower + to_right};
            const int64_t at = tile.pixel[i] * channels;
            Pack<Real, L> dot[4] = {};
            if (corners == 15) {
                for (int k = 0; k < 4; ++k) {
                    const Real weight = tile.weight[k][i];
                    for (int b = 0; b < BLOCKS; ++b) {
                        dot[k] += grad[b] * load<L>(input + at + step[k] + b * L);
                        Real* sum = grad_input + at + step[k] + b * L;
                        store<L>(sum, load<L>(sum) + weight * grad[b]);
                    }
                }
            } else {
                for (int k = 0; k < 4; ++k) {
                    if (!(corners >> k & 1)) continue;
                    const Real weight = tile.weight[k][i];
                    for (int b = 0; b < BLOCKS; ++b) {
                        dot[k] += grad[b] * load<L>(input + at + step[k] + b * L);
                        Real* sum = grad_input + at + step[k] + b * L;
                        store<L>(sum, load<L>(sum) + weight * grad[b]);
                    }
                }
            }
            add_sums<Real, L>(tile.dots + 4 * i, dot[0], dot[1], dot[2], dot[3]);
        }
    }

    // Gradients of offset and mask from the dot products. The first loop takes whole registers, so that a number does not
    // depend on how many lanes share its tile; what lies behind the last lane is never used.
    void finish(Tile<Real>& tile, int64_t row, int64_t pixels, int64_t first, int64_t groups) const {
        const int64_t each = groups * taps, lanes = pixels * each, padded = (lanes + 15) / 16 * 16;
        const Real *dots = tile.dots, *mask = tile.mask, *to_right = tile.right, *to_lower = tile.lower, scale = this->scale;
        const Real *width = tile.tap_x, *height = tile.tap_y;
        const int32_t* corners = tile.corners;
        Real *of_x = tile.offset_x, *of_y = tile.offset_y, *of_mask = tile.weight[0];  // read already, free for results
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC ivdep
#endif
        for (int64_t i = 0; i < padded; ++i) {
            const Real right = to_right[i], lower = to_lower[i];
            const Real upper_step = dots[4 * i + 1] - dots[4 * i], lower_step = dots[4 * i + 3] - dots[4 * i + 2];
            const Real upper = dots[4 * i] + right * upper_step, low = dots[4 * i + 2] + right * lower_step;
            const Real factor = corners[i] ? mask[i] : Real(0);
            of_x[i] = factor * (LEVELS ? width[i] : scale) * (upper_step + lower * (lower_step - upper_step));
            of_y[i] = factor * (LEVELS ? height[i] : scale) * (low - upper);
            of_mask[i] = upper + lower * (low - upper);
        }
        if (p.softmax) {
            for (int64_t g = 0; g < pixels * groups; ++g) {
                Real mean = 0;
                for (int64_t i = g * taps; i < (g + 1) * taps; ++i) mean += mask[i] * of_mask[i];
                for (int64_t i = g * taps; i < (g + 1) * taps; ++i) of_mask[i] = mask[i] * (of_mask[i] - mean);
            }
        }
        with_offsets(p.grad_offset, [&](auto* grad_offsets) {
            for (int64_t k = 0; k < pixels; ++k) {
                auto* grad_offset = grad_offsets + (row + k) * p.grad_offset_row + first * p.grad_offset_group;
                T* grad_mask = static_cast<T*>(p.grad_mask) + (row + k) * p.grad_mask_row + first * p.grad_mask_group;
                for (int64_t lane = k * each; lane < (k + 1) * each; lane += taps) {
                    for (int64_t i = 0; i < taps; ++i) {
                        narrow(of_x[lane + i], grad_offset[2 * i]);
                        narrow(of_y[lane + i], grad_offset[2 * i + 1]);
                        narrow(of_mask[lane + i], grad_mask[i]);
                    }
                    grad_offset += p.grad_offset_group, grad_mask += p.grad_mask_group;
                }
            }
        });
    }
};

template <typename T> void run_forward(int64_t begin, int64_t end, void* problem) {
    const auto& p = *static_cast<const DeformableProblem*>(problem);
    if (p.levels) return Deformable<T, true>(p).forward_pixels(begin, end);
    Deformable<T, false>(p).forward_pixels(begin, end);
}

template <typename T> void run_backward(int64_t begin, int64_t end, void* problem) {
    const auto& p = *static_cast<const DeformableProblem*>(problem);
    if (p.levels) return Deformable<T, true>(p).backward_slices(begin, end);
    Deformable<T, false>(p).backward_slices(begin, end);
}

inline Range forward_of(int64_t storage) {
    static const Range table[] = {run_forward<float>, run_forward<double>, run_forward<BFloat16>, run_forward<Float16>};
    return table[storage];
}

inline Range backward_of(int64_t storage) {
    static const Range table[] = {run_backward<float>, run_backward<double>, run_backward<BFloat16>, run_backward<Float16>};
    return table[storage];
}
