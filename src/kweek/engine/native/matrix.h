/* Products of a batch of rows with a packed matrix. */
#ifndef KWEEK_MATRIX_H
#define KWEEK_MATRIX_H
#include "kernels.h"

INLINE int is_quantised(const kw_matrix *m) { return m->type == KW_Q8 || m->type == KW_Q4; }
INLINE int tiles_of(const kw_matrix *m) { return (m->num_out + TILE - 1) / TILE; }

#define FLOAT_CASE(r) \
    case r: float_block(half, data, m->num_in, x, stride, out, out_stride, r, T); break;

/* All rows through T tiles, FLOAT_ROWS at a time: the tiles stay in the nearest cache. */
INLINE void float_tiles(const kw_matrix *m, const int half, int tile, int rows, const float *x, int stride, float *out, int out_stride,
                        const int T) {
    const uint8_t *data = (const uint8_t *)m->data + (size_t)tile * m->num_in * TILE * (half ? 2 : 4);
    out += tile * TILE;
    for (; rows > 0; rows -= FLOAT_ROWS, x += (size_t)FLOAT_ROWS * stride, out += (size_t)FLOAT_ROWS * out_stride)
        switch (rows < FLOAT_ROWS ? rows : FLOAT_ROWS) {
            FLOAT_CASE(1) FLOAT_CASE(2)
#if FLOAT_ROWS > 2
            FLOAT_CASE(3) FLOAT_CASE(4) FLOAT_CASE(5) FLOAT_CASE(6)
#endif
        }
}

#define QUANT_CASE(r) \
    case r: quant_block(bits, data, groups, a, scales, sums, out, out_stride, r, T); break;

INLINE void quant_tiles(const kw_matrix *m, const int bits, int tile, int rows, const kw_activations *x, float *out, int out_stride,
                        const int T) {
    const int groups = m->num_in / GROUP;
    const uint8_t *data = (const uint8_t *)m->data + (size_t)tile * groups * ((bits == 4 ? Q4_BLOCK : Q8_BLOCK) + SCALE_BLOCK);
    const int8_t *a = x->values;
    const float *scales = x->scales;
    const int32_t *sums = x->sums;
    out += tile * TILE;
#ifdef UNPACKED_ROWS
    if (bits == 4 && rows >= UNPACKED_ROWS) {
        for (int t = 0; t < T; t++)
            quant_unpacked(data + (size_t)t * groups * (Q4_BLOCK + SCALE_BLOCK), groups, rows, x, out + t * TILE, out_stride);
        return;
    }
#endif
    while (rows > 0) {
        int now = rows < QUANT_ROWS ? rows : QUANT_ROWS;
        switch (now) { QUANT_CASE(1) QUANT_CASE(2) QUANT_CASE(3) QUANT_CASE(4) }
        rows -= now;
        a += (size_t)now * m->num_in, scales += (size_t)now * groups, sums += (size_t)now * groups;
        out += (size_t)now * out_stride;
    }
}

/* out[r][o] = sum over i of x[r][i] * m[o][i] + bias[o], for the outputs of tiles `t` to `last` - 1. `out` has rows of
   `out_stride` >= whole tiles. */
static void multiply(const kw_matrix *m, int t, int last, int rows, const float *x, int stride, const kw_activations *quantised,
                     float *out, int out_stride) {
    int first = t * TILE, end = last * TILE < m->num_out ? last * TILE : m->num_out;
    /* One row is a chain of additions: four tiles at once keep the units busy. */
    switch (m->type) {
    case KW_F32:
    case KW_F16: {
        int half = m->type == KW_F16;
        if (rows == 1 && half) for (; t + 4 <= last; t += 4) float_tiles(m, 1, t, rows, x, stride, out, out_stride, 4);
        if (rows == 1 && !half) for (; t + 4 <= last; t += 4) float_tiles(m, 0, t, rows, x, stride, out, out_stride, 4);
        if (half) {
            for (; t + FLOAT_TILES <= last; t += FLOAT_TILES) float_tiles(m, 1, t, rows, x, stride, out, out_stride, FLOAT_TILES);
            for (; t < last; t++) float_tiles(m, 1, t, rows, x, stride, out, out_stride, 1);
        } else {
            for (; t + FLOAT_TILES <= last; t += FLOAT_TILES) float_tiles(m, 0, t, rows, x, stride, out, out_stride, FLOAT_TILES);
            for (; t < last; t++) float_tiles(m, 0, t, rows, x, stride, out, out_stride, 1);
        }
        break;
    }
    case KW_Q8:
        if (rows == 1) for (; t + 4 <= last; t += 4) quant_tiles(m, 8, t, rows, quantised, out, out_stride, 4);
        for (; t + 2 <= last; t += 2) quant_tiles(m, 8, t, rows, quantised, out, out_stride, 2);
        for (; t < last; t++) quant_tiles(m, 8, t, rows, quantised, out, out_stride, 1);
        break;
    default:
        if (rows == 1) for (; t + 4 <= last; t += 4) quant_tiles(m, 4, t, rows, quantised, out, out_stride, 4);
        for (; t + 2 <= last; t += 2) quant_tiles(m, 4, t, rows, quantised, out, out_stride, 2);
        for (; t < last; t++) quant_tiles(m, 4, t, rows, quantised, out, out_stride, 1);
    }
    if (m->bias)
        for (int r = 0; r < rows; r++)
            for (int o = first; o < end; o++) out[(size_t)r * out_stride + o] += m->bias[o];
}

/* Row o of the matrix, as floats: an embedding read from where the head is. */
static void read_row(const kw_matrix *m, int o, float *out) {
    int tile = o / TILE, lane = o % TILE, groups = m->num_in / GROUP;
    if (m->type == KW_F32) {
        const float *data = (const float *)m->data + (size_t)tile * m->num_in * TILE + lane;
        for (int k = 0; k < m->num_in; k++) out[k] = data[(size_t)k * TILE];
    } else if (m->type == KW_F16) {
        const uint16_t *data = (const uint16_t *)m->data + (size_t)tile * m->num_in * TILE + lane;
        for (int k = 0; k < m->num_in; k++) out[k] = half_to_float(data[(size_t)k * TILE]);
    } else {
        int four = m->type == KW_Q4, block = four ? Q4_BLOCK : Q8_BLOCK;
        const uint8_t *data = (const uint8_t *)m->data + (size_t)tile * groups * (block + SCALE_BLOCK);
        for (int g = 0; g < groups; g++) {
            const uint8_t *q = data + (size_t)g * block + 4 * lane;
            uint16_t half;
            memcpy(&half, data + (size_t)groups * block + g * SCALE_BLOCK + 2 * lane, 2);
            float scale = half_to_float(half);
            for (int k = 0; k < GROUP; k++) {
                int value = four ? (k & 4 ? q[k / 8 * 64 + k % 4] >> 4 : q[k / 8 * 64 + k % 4] & 15) - 8 : (int8_t)q[k / 4 * 64 + k % 4];
                out[g * GROUP + k] = scale * (float)value;
            }
        }
    }
}
#endif
