/* The product with 8-bit activations on 64-bit Arm. Included twice by neon.h: BLOCK names the function, TARGET what the
   processor must have, SDOT is 1 where it multiplies and adds four bytes at once. Both give the same bits: up to the
   scales everything is whole numbers. */

/* A group of 32 inputs: N registers of four outputs each, R rows. w: the group's codes, from the first register on. */
TARGET INLINE void BLOCK(_group)(const int bits, const uint8_t *w, const int8_t *a, size_t row, int32x4_t dot[4][4], const int R,
                                 const int N) {
    int8x16_t x[4];
#if SDOT
#define CHUNK(c, lane)                                                                                      \
    for (int n = 0; n < N; n++) {                                                                           \
        int8x16_t v = codes_at(bits, w + 16 * n, c);                                                        \
        for (int r = 0; r < R; r++) dot[r][n] = vdotq_laneq_s32(dot[r][n], v, x[r], lane);                  \
    }
#else
    /* Pairs of products with 8-bit codes, or all with 4-bit ones, fit into 16 bits: 2 * 127 * 127 and 8 * 15 * 127. */
    int16x8_t lower[4][4], upper[4][4];
#define CHUNK(c, lane)                                                                                      \
    for (int n = 0; n < N; n++) {                                                                           \
        int8x16_t v = codes_at(bits, w + 16 * n, c);                                                        \
        int starts = bits == 8 ? (c) % 2 == 0 : (c) == 0, ends = bits == 8 ? (c) % 2 == 1 : (c) == 7;       \
        for (int r = 0; r < R; r++) {                                                                       \
            int8x8_t y = vreinterpret_s8_s32(vdup_laneq_s32(vreinterpretq_s32_s8(x[r]), lane));             \
            lower[r][n] = starts ? vmull_s8(vget_low_s8(v), y) : vmlal_s8(lower[r][n], vget_low_s8(v), y);  \
            upper[r][n] = starts ? vmull_high_s8(v, vcombine_s8(y, y)) : vmlal_high_s8(upper[r][n], v, vcombine_s8(y, y)); \
            if (ends) dot[r][n] = vaddq_s32(dot[r][n], vpaddq_s32(vpaddlq_s16(lower[r][n]), vpaddlq_s16(upper[r][n]))); \
        }                                                                                                   \
    }
#endif
    for (int r = 0; r < R; r++) x[r] = vld1q_s8(a + r * row);
    CHUNK(0, 0) CHUNK(1, 1) CHUNK(2, 2) CHUNK(3, 3)
    for (int r = 0; r < R; r++) x[r] = vld1q_s8(a + r * row + 16);
    CHUNK(4, 0) CHUNK(5, 1) CHUNK(6, 2) CHUNK(7, 3)
#undef CHUNK
}

/* N registers of a tile, from output `first` on, over all groups. */
TARGET INLINE void BLOCK(_part)(const int bits, const uint8_t *tile, int groups, const int8_t *a, const float *scales,
                                const int32_t *sums, float *out, int out_stride, int first, const int R, const int N) {
    const int block = bits == 4 ? Q4_BLOCK : Q8_BLOCK;
    float32x4_t sum[4][4];
    for (int r = 0; r < R; r++)
        for (int n = 0; n < N; n++) sum[r][n] = vdupq_n_f32(0.0f);
    for (int g = 0; g < groups; g++) {
        int32x4_t dot[4][4];
        for (int r = 0; r < R; r++)
            for (int n = 0; n < N; n++) dot[r][n] = vdupq_n_s32(bits == 4 ? sums[(size_t)r * groups + g] : 0);
        BLOCK(_group)(bits, tile + (size_t)g * block + 4 * first, a + (size_t)g * GROUP, (size_t)groups * GROUP, dot, R, N);
        const uint16_t *halves = (const uint16_t *)(tile + (size_t)groups * block + g * SCALE_BLOCK) + first;
        for (int n = 0; n < N; n++) {
            float32x4_t scale = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(halves + 4 * n)));
            for (int r = 0; r < R; r++)
                sum[r][n] = vfmaq_f32(sum[r][n], vcvtq_f32_s32(dot[r][n]), vmulq_n_f32(scale, scales[(size_t)r * groups + g]));
        }
    }
    for (int r = 0; r < R; r++)
        for (int n = 0; n < N; n++) vst1q_f32(out + (size_t)r * out_stride + first + 4 * n, sum[r][n]);
}

/* As many outputs at once as the 32 registers hold. */
#define ROWS(bits, r, n)                                                                                    \
    for (int first = 0; first < TILE; first += 4 * (n))                                                     \
        BLOCK(_part)(bits, data, groups, a, scales, sums, out, out_stride, first, r, n);                    \
    break;
#define ANY_ROWS(bits)                                                                                      \
    switch (R) {                                                                                            \
    case 1: ROWS(bits, 1, 4)                                                                                \
    case 2: ROWS(bits, 2, SDOT ? 4 : 2)                                                                     \
    case 3: ROWS(bits, 3, SDOT ? 2 : 1)                                                                     \
    default: ROWS(bits, 4, SDOT ? 2 : 1)                                                                    \
    }

TARGET static __attribute__((noinline)) void BLOCK()(int bits, const uint8_t *data, int groups, const int8_t *a, const float *scales,
                                                     const int32_t *sums, float *out, int out_stride, int R, int T) {
    const size_t tile_bytes = (size_t)groups * ((bits == 4 ? Q4_BLOCK : Q8_BLOCK) + SCALE_BLOCK);
    for (int t = 0; t < T; t++, data += tile_bytes, out += TILE)
        if (bits == 4) ANY_ROWS(4) else ANY_ROWS(8)
}
#undef ROWS
#undef ANY_ROWS
