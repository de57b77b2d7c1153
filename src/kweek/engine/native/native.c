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
    int32_t num_layers, width, num_heads, num_kv_heads, head_dim, ffn, vocab, capacity, kv_half;
    float epsilon;
    const kw_matrix *embedding, *head;
    const kw_layer *layers;
    const float *final_norm, *cosines, *sines; /* (capacity, head_dim / 2) */
} kw_model;

typedef struct {
    int32_t max_rows, wide; /* wide: the widest row of any product, padded to a tile */
    float *x, *normed, *a, *b, *scores;
    kw_activations activations;
} kw_scratch;

INLINE int padded(int n) { return (n + TILE - 1) / TILE * TILE; }

/* Bytes of keys and values of one slot in one layer: keys [K][E][capacity], then values [K][capacity][E padded]. */
size_t kw_slot_bytes(const kw_model *m) {
    size_t numbers = (size_t)m->num_kv_heads * m->capacity * (m->head_dim + padded(m->head_dim));
    return numbers * (m->kv_half ? 2 : 4);
}

static void *aligned(size_t bytes) { return aligned_alloc(64, (bytes + 127) / 64 * 64); }

kw_scratch *kw_scratch_new(const kw_model *m, int max_rows) {
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
    s->scores = aligned(4 * ((size_t)m->num_heads * padded(m->capacity) + TILE));
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
    v16 squares = splat(0.0f);
    int i = 0;
    for (; i + 16 <= n; i += 16) { v16 v = load16(x + i); squares += v * v; }
    float total = sum16(squares);
    for (; i < n; i++) total += x[i] * x[i];
    float scale = 1.0f / sqrtf(total / (float)n + epsilon);
    for (i = 0; i < n; i++) out[i] = x[i] * scale * weight[i];
}

/* The product, with activations in 8 bits first where the weights ask for it. */
static void apply(const kw_matrix *m, kw_scratch *s, int rows, const float *x, float *out) {
    if (is_quantised(m))
        for (int r = 0; r < rows; r++)
            quantise_row(x + (size_t)r * s->wide, m->num_in, s->activations.values + (size_t)r * m->num_in,
                         s->activations.scales + (size_t)r * (m->num_in / GROUP),
                         s->activations.sums + (size_t)r * (m->num_in / GROUP));
    multiply(m, rows, x, s->wide, &s->activations, out, s->wide);
}

static void rotate(float *x, const float *cosine, const float *sine, int half) {
    for (int i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = b * cosine[i] + a * sine[i];
    }
}

/* Norm and rotate a row's queries and keys, and put keys and values into its slot. */
static void place(const kw_model *m, const kw_layer *layer, float *qkv, int position, uint8_t *slot) {
    int E = m->head_dim, C = m->capacity, V = padded(E);
    const float *cosine = m->cosines + (size_t)position * (E / 2), *sine = m->sines + (size_t)position * (E / 2);
    for (int h = 0; h < m->num_heads + m->num_kv_heads; h++) {
        float *x = qkv + h * E;
        const float *weight = h < m->num_heads ? layer->q_norm : layer->k_norm;
        if (weight) rms_norm(x, weight, E, m->epsilon, x);
        rotate(x, cosine, sine, E / 2);
    }
    const float *keys = qkv + m->num_heads * E, *values = keys + m->num_kv_heads * E;
    size_t first = (size_t)m->num_kv_heads * E * C;
    for (int h = 0; h < m->num_kv_heads; h++)
        for (int e = 0; e < E; e++) {
            size_t key = ((size_t)h * E + e) * C + position, value = first + ((size_t)h * C + position) * V + e;
            if (m->kv_half) {
                ((uint16_t *)slot)[key] = float_to_half(keys[h * E + e]);
                ((uint16_t *)slot)[value] = float_to_half(values[h * E + e]);
            } else {
                ((float *)slot)[key] = keys[h * E + e];
                ((float *)slot)[value] = values[h * E + e];
            }
        }
}

/* Attention of one row: every query head over positions 0 to `position` of its slot. */
INLINE void attend(const kw_model *m, const float *queries, int position, const uint8_t *slot, float *scores, float *out,
                   const int half) {
    int E = m->head_dim, C = m->capacity, V = padded(E), T = padded(position + 1), group = m->num_heads / m->num_kv_heads;
    float scale = 1.0f / sqrtf((float)E);
    for (int h = 0; h < m->num_heads; h++) {
        const float *q = queries + h * E;
        size_t key = (size_t)(h / group) * E * C;
        float *score = scores + (size_t)h * padded(C);
        for (int t = 0; t < T; t += 16) {
            v16 sum = splat(0.0f);
            for (int e = 0; e < E; e++) {
                size_t at = key + (size_t)e * C + t;
                sum += (half ? load16_half((const uint16_t *)slot + at) : load16((const float *)slot + at)) * splat(q[e]);
            }
            store16(score + t, sum * splat(scale));
        }
        for (int t = position + 1; t < T; t++) score[t] = -INFINITY;
        float largest = score[0];
        for (int t = 1; t <= position; t++) largest = score[t] > largest ? score[t] : largest;
        v16 totals = splat(0.0f);
        for (int t = 0; t < T; t += 16) {
            v16 p = exp16(load16(score + t) - splat(largest));
            store16(score + t, p);
            totals += p;
        }
        float inverse = 1.0f / sum16(totals);
        size_t value = (size_t)m->num_kv_heads * E * C + (size_t)(h / group) * C * V;
        for (int e = 0; e < V; e += 16) {
            v16 sum = splat(0.0f);
            for (int t = 0; t <= position; t++) {
                size_t at = value + (size_t)t * V + e;
                sum += (half ? load16_half((const uint16_t *)slot + at) : load16((const float *)slot + at)) * splat(score[t]);
            }
            float block[16];
            store16(block, sum * splat(inverse));
            for (int i = 0; i < 16 && e + i < E; i++) out[h * E + e + i] = block[i];
        }
    }
}

/* silu(gate) * up; the two halves of a row, into its beginning. */
static void gate(float *row, int ffn) {
    int i = 0;
    for (; i + 16 <= ffn; i += 16) {
        v16 g = load16(row + i), u = load16(row + ffn + i);
        store16(row + i, g / (splat(1.0f) + exp16(-g)) * u);
    }
    for (; i < ffn; i++) row[i] = row[i] / (1.0f + expf(-row[i])) * row[ffn + i];
}

static void add(float *x, const float *y, int n) {
    for (int i = 0; i < n; i++) x[i] += y[i];
}

static void through_layer(const kw_model *m, int index, kw_scratch *s, int rows, const int32_t *slots, const int32_t *positions,
                          uint8_t *cache, size_t slot_bytes) {
    const kw_layer *layer = m->layers + index;
    int wide = s->wide, inner = m->num_heads * m->head_dim;
    for (int r = 0; r < rows; r++) rms_norm(s->x + (size_t)r * wide, layer->norm1, m->width, m->epsilon, s->normed + (size_t)r * wide);
    apply(&layer->qkv, s, rows, s->normed, s->a);
#define SLOT(r) (cache + ((size_t)slots[r] * m->num_layers + index) * slot_bytes)
    for (int r = 0; r < rows; r++) place(m, layer, s->a + (size_t)r * wide, positions[r], SLOT(r));
    for (int r = 0; r < rows; r++) {
        const float *q = s->a + (size_t)r * wide;
        float *out = s->b + (size_t)r * wide;
        if (m->kv_half) attend(m, q, positions[r], SLOT(r), s->scores, out, 1);
        else attend(m, q, positions[r], SLOT(r), s->scores, out, 0);
    }
#undef SLOT
    (void)inner;
    apply(&layer->out, s, rows, s->b, s->a);
    for (int r = 0; r < rows; r++) {
        float *x = s->x + (size_t)r * wide;
        add(x, s->a + (size_t)r * wide, m->width);
        rms_norm(x, layer->norm2, m->width, m->epsilon, s->normed + (size_t)r * wide);
    }
    apply(&layer->gate_up, s, rows, s->normed, s->a);
    for (int r = 0; r < rows; r++) gate(s->a + (size_t)r * wide, m->ffn);
    apply(&layer->down, s, rows, s->a, s->b);
    for (int r = 0; r < rows; r++) add(s->x + (size_t)r * wide, s->b + (size_t)r * wide, m->width);
}

/* One call over `rows` <= max_rows rows. A slot's rows come in the order of their positions. `wanted` names the rows whose
   logits are written, one after another, to `logits` with rows of `logits_stride` >= vocab padded to 16. */
void kw_step(const kw_model *m, kw_scratch *s, uint8_t *cache, int rows, const int32_t *tokens, const int32_t *slots,
             const int32_t *positions, int num_wanted, const int32_t *wanted, float *logits, int logits_stride) {
    size_t slot_bytes = kw_slot_bytes(m);
    int wide = s->wide;
    for (int r = 0; r < rows; r++) read_row(m->embedding, tokens[r], s->x + (size_t)r * wide);
    for (int l = 0; l < m->num_layers; l++) through_layer(m, l, s, rows, slots, positions, cache, slot_bytes);
    for (int i = 0; i < num_wanted; i++)
        rms_norm(s->x + (size_t)wanted[i] * wide, m->final_norm, m->width, m->epsilon, s->normed + (size_t)i * wide);
    if (!num_wanted) return;
    if (is_quantised(m->head))
        for (int r = 0; r < num_wanted; r++)
            quantise_row(s->normed + (size_t)r * wide, m->width, s->activations.values + (size_t)r * m->width,
                         s->activations.scales + (size_t)r * (m->width / GROUP), s->activations.sums + (size_t)r * (m->width / GROUP));
    multiply(m->head, num_wanted, s->normed, wide, &s->activations, logits, logits_stride);
}

/* A slot's first `length` positions into another slot: all samples of a prompt share one prefill. */
void kw_fork(const kw_model *m, uint8_t *cache, int from, int to, int length) {
    size_t slot_bytes = kw_slot_bytes(m), size = m->kv_half ? 2 : 4;
    int E = m->head_dim, C = m->capacity, V = padded(E), K = m->num_kv_heads;
    for (int l = 0; l < m->num_layers; l++) {
        const uint8_t *a = cache + ((size_t)from * m->num_layers + l) * slot_bytes;
        uint8_t *b = cache + ((size_t)to * m->num_layers + l) * slot_bytes;
        for (int e = 0; e < K * E; e++) memcpy(b + (size_t)e * C * size, a + (size_t)e * C * size, length * size);
        size_t values = (size_t)K * E * C * size;
        for (int h = 0; h < K; h++)
            memcpy(b + values + (size_t)h * C * V * size, a + values + (size_t)h * C * V * size, (size_t)length * V * size);
    }
}

#include "sampling.h"
