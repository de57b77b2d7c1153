/* One step of a decoder-only transformer for any mix of (sequence, position) rows, all layers in one call.

   A row reads the keys and values of its own slot at its own position and before, and nothing of any other row: what it
   computes does not depend on who else is in the call, to the bit. */
#include <stdlib.h>
#include "matrix.h"

typedef struct {
    kw_matrix qkv, out, gate_up, down;
    const float *norm1, *norm2, *q_norm, *k_norm; /* the last two may be NULL */
} kw_layer;

typedef struct {
    int32_t num_layers, width, num_heads, num_kv_heads, head_dim, ffn, vocab, kv_half;
    float epsilon;
    const kw_matrix *embedding, *head;
    const kw_layer *layers;
    const float *final_norm, *cosines, *sines; /* the last two (positions, head_dim / 2) */
} kw_model;

/* Keys and values of one sequence in all layers. Every slot has a capacity of its own, a multiple of 16 tokens. */
typedef struct {
    uint8_t *data;
    int32_t capacity, unused;
} kw_slot;

typedef struct {
    int32_t max_rows, wide; /* wide: the widest row of any product, padded to a tile */
    float *x, *normed, *a, *b, *scores;
    kw_activations activations;
} kw_scratch;

INLINE int padded(int n) { return (n + TILE - 1) / TILE * TILE; }

/* Bytes of a slot's keys and values in one layer: keys [K][capacity / 16][E][16], so that a register holds positions,
   then values [K][capacity][E padded]. */
INLINE size_t layer_bytes(const kw_model *m, int capacity) {
    size_t numbers = (size_t)m->num_kv_heads * capacity * (m->head_dim + padded(m->head_dim));
    return numbers * (m->kv_half ? 2 : 4);
}

size_t kw_slot_bytes(const kw_model *m, int capacity) { return layer_bytes(m, capacity) * m->num_layers; }

static void *aligned(size_t bytes) { return aligned_alloc(64, (bytes + 127) / 64 * 64); }

/* `capacity`: of the largest slot, at first. */
kw_scratch *kw_scratch_new(const kw_model *m, int max_rows, int capacity) {
    kw_scratch *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    int heads = (m->num_heads + 2 * m->num_kv_heads) * m->head_dim, inner = m->num_heads * m->head_dim;
    int wide = m->width > heads ? m->width : heads;
    if (2 * m->ffn > wide) wide = 2 * m->ffn;
    if (inner > wide) wide = inner;
    s->wide = padded(wide) + TILE;
    s->max_rows = max_rows;
    size_t row = (size_t)max_rows * s->wide;
    s->x = aligned(4 * row), s->normed = aligned(4 * row), s->a = aligned(4 * row), s->b = aligned(4 * row);
    s->scores = aligned(4 * (4 * (size_t)padded(capacity) + TILE)); /* of the heads attended at once */
    s->activations.values = aligned(row);
    s->activations.scales = aligned(4 * row / GROUP + 64);
    s->activations.sums = aligned(4 * row / GROUP + 64);
    return s;
}

void kw_scratch_free(kw_scratch *s) {
    if (!s) return;
    free(s->x), free(s->normed), free(s->a), free(s->b), free(s->scores);
    free(s->activations.values), free(s->activations.scales), free(s->activations.sums);
    free(s);
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

/* The product, with activations in 8 bits first where the weights ask for it. */
static void apply(const kw_matrix *m, kw_scratch *s, int rows, const float *x, float *out, int out_stride) {
    if (is_quantised(m))
        for (int r = 0; r < rows; r++)
            quantise_row(x + (size_t)r * s->wide, m->num_in, shift_of(m->type), s->activations.values + (size_t)r * m->num_in,
                         s->activations.scales + (size_t)r * (m->num_in / GROUP),
                         s->activations.sums + (size_t)r * (m->num_in / GROUP));
    multiply(m, rows, x, s->wide, &s->activations, out, out_stride);
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
    size_t first = (size_t)m->num_kv_heads * E * C;
    for (int h = 0; h < m->num_kv_heads; h++, keys += E, values += E) {
        size_t key = ((size_t)h * (C / TILE) + position / TILE) * E * TILE + position % TILE;
        size_t value = first + ((size_t)h * C + position) * V;
        if (m->kv_half) {
            uint16_t piece[WIDTH];
            int e = 0;
            for (; e + WIDTH <= E; e += WIDTH) {
                store_half(piece, load(keys + e));
                for (int i = 0; i < WIDTH; i++) ((uint16_t *)slot)[key + (size_t)(e + i) * TILE] = piece[i];
                store_half((uint16_t *)slot + value + e, load(values + e));
            }
            for (; e < E; e++) {
                ((uint16_t *)slot)[key + (size_t)e * TILE] = float_to_half(keys[e]);
                ((uint16_t *)slot)[value + e] = float_to_half(values[e]);
            }
        } else {
            for (int e = 0; e < E; e++) ((float *)slot)[key + (size_t)e * TILE] = keys[e];
            memcpy((float *)slot + value, values, E * sizeof(float));
        }
    }
}

/* Products of H queries with B blocks of 16 keys. */
INLINE void score_blocks(const float *queries, int E, const void *keys, size_t at, float scale, float *scores, int stride,
                         const int half, const int H, const int B) {
    vec sum[4][4 * PARTS];
    for (int h = 0; h < H; h++)
        for (int b = 0; b < B * PARTS; b++) sum[h][b] = splat(0.0f);
    for (int e = 0; e < E; e++)
        for (int b = 0; b < B; b++)
            for (int p = 0; p < PARTS; p++) {
                vec key = load_number(keys, at + ((size_t)b * E + e) * TILE + p * WIDTH, half);
                for (int h = 0; h < H; h++) sum[h][b * PARTS + p] += key * splat(queries[h * E + e]);
            }
    for (int h = 0; h < H; h++)
        for (int b = 0; b < B * PARTS; b++) store(scores + (size_t)h * stride + b * WIDTH, sum[h][b] * splat(scale));
}

/* Sums of H rows of weights times values, N registers wide. */
INLINE void mix_values(const float *weights, int stride, int count, const void *values, size_t at, int row, float *out, int E,
                       const float *inverse, const int half, const int H, const int N) {
    vec sum[4][8];
    for (int h = 0; h < H; h++)
        for (int n = 0; n < N; n++) sum[h][n] = splat(0.0f);
    for (int t = 0; t < count; t++)
        for (int n = 0; n < N; n++) {
            vec value = load_number(values, at + (size_t)t * row + n * WIDTH, half);
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
INLINE void attend_heads(const kw_model *m, const float *queries, int kv_head, int position, const uint8_t *slot, int C,
                         float *scores, float *out, const int half, const int H) {
    enum { REGISTERS = 8 };
    int E = m->head_dim, V = padded(E), blocks = position / TILE + 1, stride = padded(C);
    float scale = 1.0f / sqrtf((float)E), inverse[4];
    size_t key = (size_t)kv_head * C * E;
    const int B = REGISTERS / (H * PARTS) > 4 ? 4 : REGISTERS / (H * PARTS) > 0 ? REGISTERS / (H * PARTS) : 1;
    int b = 0;
    for (; b + B <= blocks; b += B)
        score_blocks(queries, E, slot, key + (size_t)b * E * TILE, scale, scores + b * TILE, stride, half, H, B);
    for (; b < blocks; b++)
        score_blocks(queries, E, slot, key + (size_t)b * E * TILE, scale, scores + b * TILE, stride, half, H, 1);
    for (int h = 0; h < H; h++) inverse[h] = soften(scores + (size_t)h * stride, position, blocks);
    size_t value = (size_t)m->num_kv_heads * E * C + (size_t)kv_head * C * V;
    const int N = REGISTERS / H < 8 ? REGISTERS / H : 8;
    int e = 0;
    for (; e + N * WIDTH <= E; e += N * WIDTH)
        mix_values(scores, stride, position + 1, slot, value + e, V, out + e, E, inverse, half, H, N);
    for (; e + WIDTH <= E; e += WIDTH)
        mix_values(scores, stride, position + 1, slot, value + e, V, out + e, E, inverse, half, H, 1);
    if (e < E) { /* a last, narrower piece, by way of a buffer */
        float last[4 * WIDTH];
        mix_values(scores, stride, position + 1, slot, value + e, V, last, WIDTH, inverse, half, H, 1);
        for (int h = 0; h < H; h++) memcpy(out + (size_t)h * E + e, last + h * WIDTH, (E - e) * sizeof(float));
    }
}

/* Attention of one row: every query head over positions 0 to `position` of its slot. */
INLINE void attend(const kw_model *m, const float *queries, int position, const uint8_t *slot, int C, float *scores,
                   float *out, const int half) {
    int E = m->head_dim, group = m->num_heads / m->num_kv_heads;
    for (int h = 0; h < m->num_heads;) {
        int left = group - h % group;
        const float *q = queries + (size_t)h * E;
        float *to = out + (size_t)h * E;
        switch (left < 4 ? left : 4) {
        case 1: attend_heads(m, q, h / group, position, slot, C, scores, to, half, 1); h += 1; break;
        case 2: attend_heads(m, q, h / group, position, slot, C, scores, to, half, 2); h += 2; break;
        case 3: attend_heads(m, q, h / group, position, slot, C, scores, to, half, 3); h += 3; break;
        default: attend_heads(m, q, h / group, position, slot, C, scores, to, half, 4); h += 4;
        }
    }
}

/* silu(gate) * up; the two halves of a row, into its beginning. */
static void gate(float *row, int ffn) {
    int i = 0;
    for (; i + WIDTH <= ffn; i += WIDTH) {
        vec g = load(row + i), u = load(row + ffn + i);
        store(row + i, g / (splat(1.0f) + exp_of(-g)) * u);
    }
    for (; i < ffn; i++) row[i] = row[i] / (1.0f + expf(-row[i])) * row[ffn + i];
}

static void add(float *x, const float *y, int n) {
    for (int i = 0; i < n; i++) x[i] += y[i];
}

static void through_layer(const kw_model *m, int index, kw_scratch *s, int rows, const int32_t *slots, const int32_t *positions,
                          const kw_slot *cache) {
    const kw_layer *layer = m->layers + index;
    int wide = s->wide;
    for (int r = 0; r < rows; r++) rms_norm(s->x + (size_t)r * wide, layer->norm1, m->width, m->epsilon, s->normed + (size_t)r * wide);
    apply(&layer->qkv, s, rows, s->normed, s->a, wide);
#define CAPACITY(r) cache[slots[r]].capacity
#define SLOT(r) (cache[slots[r]].data + index * layer_bytes(m, CAPACITY(r)))
    for (int r = 0; r < rows; r++) place(m, layer, s->a + (size_t)r * wide, positions[r], SLOT(r), CAPACITY(r));
    for (int r = 0; r < rows; r++) {
        const float *q = s->a + (size_t)r * wide;
        float *out = s->b + (size_t)r * wide;
        if (m->kv_half) attend(m, q, positions[r], SLOT(r), CAPACITY(r), s->scores, out, 1);
        else attend(m, q, positions[r], SLOT(r), CAPACITY(r), s->scores, out, 0);
    }
#undef SLOT
#undef CAPACITY
    apply(&layer->out, s, rows, s->b, s->a, wide);
    for (int r = 0; r < rows; r++) {
        float *x = s->x + (size_t)r * wide;
        add(x, s->a + (size_t)r * wide, m->width);
        rms_norm(x, layer->norm2, m->width, m->epsilon, s->normed + (size_t)r * wide);
    }
    apply(&layer->gate_up, s, rows, s->normed, s->a, wide);
    for (int r = 0; r < rows; r++) gate(s->a + (size_t)r * wide, m->ffn);
    apply(&layer->down, s, rows, s->a, s->b, wide);
    for (int r = 0; r < rows; r++) add(s->x + (size_t)r * wide, s->b + (size_t)r * wide, m->width);
}

/* One call over `rows` <= max_rows rows. A slot's rows come in the order of their positions. `wanted` names the rows whose
   logits are written, one after another, to `logits` with rows of `logits_stride` >= vocab padded to 16. */
void kw_step(const kw_model *m, kw_scratch *s, const kw_slot *cache, int rows, const int32_t *tokens, const int32_t *slots,
             const int32_t *positions, int num_wanted, const int32_t *wanted, float *logits, int logits_stride) {
    int wide = s->wide;
    for (int r = 0; r < rows; r++) read_row(m->embedding, tokens[r], s->x + (size_t)r * wide);
    for (int l = 0; l < m->num_layers; l++) through_layer(m, l, s, rows, slots, positions, cache);
    for (int i = 0; i < num_wanted; i++)
        rms_norm(s->x + (size_t)wanted[i] * wide, m->final_norm, m->width, m->epsilon, s->normed + (size_t)i * wide);
    if (!num_wanted) return;
    apply(m->head, s, num_wanted, s->normed, logits, logits_stride);
}

/* A slot's first `length` positions into another slot: all samples of a prompt share one prefill. */
void kw_fork(const kw_model *m, const kw_slot *from, const kw_slot *to, int length) {
    size_t size = m->kv_half ? 2 : 4;
    int E = m->head_dim, V = padded(E), A = from->capacity, B = to->capacity;
    for (int l = 0; l < m->num_layers; l++) {
        const uint8_t *a = from->data + l * layer_bytes(m, A);
        uint8_t *b = to->data + l * layer_bytes(m, B);
        for (int h = 0; h < m->num_kv_heads; h++) { /* whole blocks of 16 keys */
            memcpy(b + (size_t)h * B * E * size, a + (size_t)h * A * E * size, (size_t)padded(length) * E * size);
            memcpy(b + ((size_t)m->num_kv_heads * B * E + (size_t)h * B * V) * size,
                   a + ((size_t)m->num_kv_heads * A * E + (size_t)h * A * V) * size, (size_t)length * V * size);
        }
    }
}

#include "sampling.h"
