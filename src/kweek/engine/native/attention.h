/* Keys and values of sequences, and attention to them. */
#ifndef KWEEK_ATTENTION_H
#define KWEEK_ATTENTION_H
#include "kernels.h"

#define MAX_HEAD_DIM 1024

typedef struct {
    kw_matrix qkv, out, gate_up, down;
    const float *norm1, *norm2, *q_norm, *k_norm; /* the last two may be NULL */
} kw_layer;

typedef struct {
    int32_t num_layers, width, num_heads, num_kv_heads, head_dim, ffn, vocab, kv; /* kv: KW_F32, KW_F16 or KW_Q8 */
    float epsilon;
    const kw_matrix *embedding, *head;
    const kw_layer *layers;
    const float *final_norm, *cosines, *sines; /* the last two (positions, head_dim / 2) */
} kw_model;

/* Keys and values of one sequence in all layers. Every slot has a capacity of its own, a multiple of 16 tokens. Its first
   `shared_length` positions, whole blocks of 16, may be those of another slot: they are read there, once for all that
   share them as far as the caches are concerned, and what this slot holds in their place means nothing. */
typedef struct {
    uint8_t *data;
    int32_t capacity, shared_length;
    const uint8_t *shared;
    int32_t shared_capacity, unused;
} kw_slot;

/* Where positions `from` to `to` - 1 of one layer of a slot are. */
typedef struct {
    const uint8_t *data;
    int capacity, from, to;
} kw_span;

INLINE int padded(int n) { return (n + TILE - 1) / TILE * TILE; }

/* Bytes of a key's or a value's number. */
INLINE size_t kv_bytes(const kw_model *m) { return m->kv == KW_F32 ? 4 : m->kv == KW_F16 ? 2 : 1; }

/* Where a slot of capacity C has things, for one layer, in numbers: keys [K][C / 16][E][16], so that a register holds
   positions; values [K][C][E padded]; and for 8 bits a scale per key and per value, [2][K][C] in f32. */
INLINE size_t first_value(const kw_model *m, int C) { return (size_t)m->num_kv_heads * C * m->head_dim; }

INLINE size_t scales_at(const kw_model *m, int C) { /* in bytes */
    return (first_value(m, C) + (size_t)m->num_kv_heads * C * padded(m->head_dim)) * kv_bytes(m);
}

INLINE size_t layer_bytes(const kw_model *m, int C) {
    return scales_at(m, C) + (m->kv == KW_Q8 ? 2 * sizeof(float) * m->num_kv_heads * C : 0);
}

INLINE float *scales_of(const kw_model *m, const uint8_t *slot, int C, int values, int kv_head) {
    return (float *)(slot + scales_at(m, C)) + ((size_t)values * m->num_kv_heads + kv_head) * C;
}

static void rms_norm(const float *x, const float *weight, int n, float epsilon, float *out) {
    vec squares = splat(0.0f);
    int i = 0;
    for (; i + WIDTH <= n; i += WIDTH) { vec v = load(x + i); squares += v * v; }
    float total = sum_of(squares);
    for (; i < n; i++) total += x[i] * x[i];
    float scale = 1.0f / sqrtf(total / (float)n + epsilon);
    vec by = splat(scale);
    for (i = 0; i + WIDTH <= n; i += WIDTH) store(out + i, load(x + i) * by * load(weight + i));
    for (; i < n; i++) out[i] = x[i] * scale * weight[i];
}

static void rotate(float *x, const float *cosine, const float *sine, int half) {
    int i = 0;
    for (; i + WIDTH <= half; i += WIDTH) {
        vec a = load(x + i), b = load(x + i + half), c = load(cosine + i), s = load(sine + i);
        store(x + i, a * c - b * s);
        store(x + i + half, b * c + a * s);
    }
    for (; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = b * cosine[i] + a * sine[i];
    }
}

/* A head's vector in 8 bits, times the scale that is returned; as in quantise_row, it is not finite where x is not. */
static float in_eight_bits(const float *x, int n, int8_t *out) {
    int32_t largest = 0;
    for (int i = 0; i < n; i++) {
        int32_t bits;
        memcpy(&bits, x + i, 4);
        bits &= 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    float most;
    memcpy(&most, &largest, 4);
    if (most > LEAST && most < INFINITY) {
        float inverse = 127.0f / most;
        for (int i = 0; i < n; i++) out[i] = (int8_t)(int32_t)rintf(x[i] * inverse);
    } else
        memset(out, 0, n);
    return most / 127.0f;
}

/* Norm and rotate a row's queries and keys, and put keys and values into its slot. */
static void place(const kw_model *m, const kw_layer *layer, float *qkv, int position, uint8_t *slot, int C) {
    int E = m->head_dim, V = padded(E);
    const float *cosine = m->cosines + (size_t)position * (E / 2), *sine = m->sines + (size_t)position * (E / 2);
    for (int h = 0; h < m->num_heads + m->num_kv_heads; h++) {
        float *x = qkv + h * E;
        const float *weight = h < m->num_heads ? layer->q_norm : layer->k_norm;
        if (weight) rms_norm(x, weight, E, m->epsilon, x);
        rotate(x, cosine, sine, E / 2);
    }
    const float *keys = qkv + m->num_heads * E, *values = keys + m->num_kv_heads * E;
    for (int h = 0; h < m->num_kv_heads; h++, keys += E, values += E) {
        size_t key = ((size_t)h * (C / TILE) + position / TILE) * E * TILE + position % TILE;
        size_t value = first_value(m, C) + ((size_t)h * C + position) * V;
        if (m->kv == KW_Q8) {
            int8_t piece[MAX_HEAD_DIM];
            scales_of(m, slot, C, 0, h)[position] = in_eight_bits(keys, E, piece);
            for (int e = 0; e < E; e++) ((int8_t *)slot)[key + (size_t)e * TILE] = piece[e];
            scales_of(m, slot, C, 1, h)[position] = in_eight_bits(values, E, (int8_t *)slot + value);
        } else if (m->kv == KW_F16) {
            uint16_t piece[MAX_HEAD_DIM];
            int e = 0;
            for (; e + WIDTH <= E; e += WIDTH) {
                store_half(piece + e, load(keys + e));
                store_half((uint16_t *)slot + value + e, load(values + e));
            }
            for (; e < E; e++) piece[e] = float_to_half(keys[e]), ((uint16_t *)slot)[value + e] = float_to_half(values[e]);
            for (e = 0; e < E; e++) ((uint16_t *)slot)[key + (size_t)e * TILE] = piece[e];
        } else {
            for (int e = 0; e < E; e++) ((float *)slot)[key + (size_t)e * TILE] = keys[e];
            memcpy((float *)slot + value, values, E * sizeof(float));
        }
    }
}

/* Products of H queries with B blocks of 16 keys. */
INLINE void score_blocks(const float *queries, int E, const void *keys, size_t at, const float *key_scales, float scale, float *scores,
                         int stride, const int kv, const int H, const int B) {
    vec sum[4][4 * PARTS];
    for (int h = 0; h < H; h++)
        for (int b = 0; b < B * PARTS; b++) sum[h][b] = splat(0.0f);
    for (int e = 0; e < E; e++)
        for (int b = 0; b < B; b++)
            for (int p = 0; p < PARTS; p++) {
                vec key = load_number(keys, at + ((size_t)b * E + e) * TILE + p * WIDTH, kv);
                for (int h = 0; h < H; h++) sum[h][b * PARTS + p] += key * splat(queries[h * E + e]);
            }
    for (int h = 0; h < H; h++)
        for (int b = 0; b < B * PARTS; b++) {
            vec by = splat(scale);
            if (kv == KW_Q8) by *= load(key_scales + b * WIDTH);
            store(scores + (size_t)h * stride + b * WIDTH, sum[h][b] * by);
        }
}

/* Sums of H rows of weights times values, N registers wide; `at` is where a span's values begin, in numbers. */
INLINE void mix_values(const float *weights, int stride, const kw_span *spans, const size_t *at, int row, float *out, int E,
                       const float *inverse, const int kv, const int H, const int N) {
    vec sum[4][8];
    for (int h = 0; h < H; h++)
        for (int n = 0; n < N; n++) sum[h][n] = splat(0.0f);
    for (int i = 0; i < 2; i++)
        for (int t = spans[i].from; t < spans[i].to; t++)
            for (int n = 0; n < N; n++) {
                vec value = load_number(spans[i].data, at[i] + (size_t)t * row + n * WIDTH, kv);
                for (int h = 0; h < H; h++) sum[h][n] += value * splat(weights[(size_t)h * stride + t]);
            }
    for (int h = 0; h < H; h++)
        for (int n = 0; n < N; n++) store(out + (size_t)h * E + n * WIDTH, sum[h][n] * splat(inverse[h]));
}

/* Weights of one head from its scores over positions 0 to `position`; returns one over their sum. */
static float soften(float *score, int position, int blocks) {
    for (int t = position + 1; t < blocks * TILE; t++) score[t] = -INFINITY;
    vec most = load(score);
    for (int t = WIDTH; t < blocks * TILE; t += WIDTH) most = larger_of(load(score + t), most);
    most = largest_lane(most);
    vec total = splat(0.0f);
    for (int t = 0; t < blocks * TILE; t += WIDTH) {
        vec p = exp_of(load(score + t) - most);
        store(score + t, p);
        total += p;
    }
    return 1.0f / sum_of(total);
}

/* H query heads that share their keys and values. `out` has rows of `E`; what it gets beyond E is overwritten later. */
INLINE void attend_heads(const kw_model *m, const float *queries, int kv_head, const kw_span *spans, float *scores, float *out,
                         const int kv, const int H) {
    enum { REGISTERS = 8 };
    int E = m->head_dim, V = padded(E), position = spans[1].to - 1, stride = padded(spans[1].capacity);
    float scale = 1.0f / sqrtf((float)E), inverse[4];
    size_t value[2];
    const int B = REGISTERS / (H * PARTS) > 4 ? 4 : REGISTERS / (H * PARTS) > 0 ? REGISTERS / (H * PARTS) : 1;
    for (int i = 0; i < 2; i++) {
        const kw_span *span = spans + i;
        size_t key = (size_t)kv_head * span->capacity * E;
        const float *scales = kv == KW_Q8 && span->data ? scales_of(m, span->data, span->capacity, 0, kv_head) : NULL;
        int b = span->from / TILE, last = (span->to + TILE - 1) / TILE;
#define SCORES(count) \
    score_blocks(queries, E, span->data, key + (size_t)b * E * TILE, scales ? scales + b * TILE : NULL, scale, scores + b * TILE, stride, kv, H, count)
        for (; b + B <= last; b += B) SCORES(B);
        switch (last - b) { /* together too: one block alone is a chain of additions */
        case 3: SCORES(3); break;
        case 2: SCORES(2); break;
        case 1: SCORES(1); break;
        }
#undef SCORES
        value[i] = first_value(m, span->capacity) + (size_t)kv_head * span->capacity * V;
    }
    for (int h = 0; h < H; h++) inverse[h] = soften(scores + (size_t)h * stride, position, position / TILE + 1);
    if (kv == KW_Q8)
        for (int i = 0; i < 2; i++) {
            if (!spans[i].data) continue;
            const float *scales = scales_of(m, spans[i].data, spans[i].capacity, 1, kv_head);
            for (int h = 0; h < H; h++)
                for (int t = spans[i].from; t < spans[i].to; t++) scores[(size_t)h * stride + t] *= scales[t];
        }
    int e = 0;
#define MIX(N) \
    for (; N <= REGISTERS / H && e + N * WIDTH <= E; e += N * WIDTH, value[0] += N * WIDTH, value[1] += N * WIDTH) \
        mix_values(scores, stride, spans, value, V, out + e, E, inverse, kv, H, N);
    MIX(8) MIX(4) MIX(2) MIX(1)
#undef MIX
    if (e < E) { /* a last, narrower piece, by way of a buffer */
        float last[4 * WIDTH];
        mix_values(scores, stride, spans, value, V, last, WIDTH, inverse, kv, H, 1);
        for (int h = 0; h < H; h++) memcpy(out + (size_t)h * E + e, last + h * WIDTH, (E - e) * sizeof(float));
    }
}

/* Attention of the query heads of one row that share a key head, over positions 0 to `position` of its slot. */
INLINE void attend(const kw_model *m, const float *queries, int kv_head, int position, const kw_slot *slot, int layer, float *scores,
                   float *out, const int kv) {
    int E = m->head_dim, group = m->num_heads / m->num_kv_heads, shared = slot->shared_length;
    kw_span spans[2] = {{slot->shared, slot->shared_capacity, 0, shared}, {slot->data, slot->capacity, shared, position + 1}};
    for (int i = 0; i < 2; i++)
        if (spans[i].data) spans[i].data += layer * layer_bytes(m, spans[i].capacity);
    for (int h = kv_head * group, end = h + group; h < end;) {
        const float *q = queries + (size_t)h * E;
        float *to = out + (size_t)h * E;
        switch (end - h < 4 ? end - h : 4) {
        case 1: attend_heads(m, q, kv_head, spans, scores, to, kv, 1); h += 1; break;
        case 2: attend_heads(m, q, kv_head, spans, scores, to, kv, 2); h += 2; break;
        case 3: attend_heads(m, q, kv_head, spans, scores, to, kv, 3); h += 3; break;
        default: attend_heads(m, q, kv_head, spans, scores, to, kv, 4); h += 4;
        }
    }
}
#endif
