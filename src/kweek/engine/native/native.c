/* One step of a decoder-only transformer for any mix of (sequence, position) rows, all layers in one call.

   A row reads the keys and values of its own slot at its own position and before, and nothing of any other row: what it
   computes does not depend on who else is in the call, to the bit. */
#include <stdlib.h>
#include "attention.h"
#include "matrix.h"
#include "team.h"

typedef struct {
    int32_t max_rows, wide; /* wide: the widest row of any product, padded to a tile */
    float *x, *normed, *a, *b, *scores;
    size_t scores_each; /* floats of `scores` that each thread has */
    kw_activations activations;
    kw_team *team, *alone;
} kw_scratch;

size_t kw_slot_bytes(const kw_model *m, int capacity) { return layer_bytes(m, capacity) * m->num_layers; }

static void *aligned(size_t bytes) { return aligned_alloc(64, (bytes + 127) / 64 * 64); }

void kw_scratch_free(kw_scratch *s) {
    if (!s) return;
    team_free(s->team), team_free(s->alone);
    free(s->x), free(s->normed), free(s->a), free(s->b), free(s->scores);
    free(s->activations.values), free(s->activations.scales), free(s->activations.sums);
    free(s);
}

/* What a call works with. `capacity`: of the largest slot. NULL where memory or threads are short. */
kw_scratch *kw_scratch_new(const kw_model *m, int max_rows, int capacity, int threads) {
    kw_scratch *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    int heads = (m->num_heads + 2 * m->num_kv_heads) * m->head_dim, inner = m->num_heads * m->head_dim;
    int wide = m->width > heads ? m->width : heads;
    if (2 * m->ffn > wide) wide = 2 * m->ffn;
    if (inner > wide) wide = inner;
    s->wide = padded(wide) + TILE;
    s->max_rows = max_rows;
    s->scores_each = 4 * (size_t)padded(capacity) + TILE; /* of the heads attended at once */
    size_t row = (size_t)max_rows * s->wide;
    s->x = aligned(4 * row), s->normed = aligned(4 * row), s->a = aligned(4 * row), s->b = aligned(4 * row);
    s->scores = aligned(4 * s->scores_each * threads);
    s->activations.values = aligned(row);
    s->activations.scales = aligned(4 * row / GROUP + 64);
    s->activations.sums = aligned(4 * row / GROUP + 64);
    s->team = team_new(threads), s->alone = team_new(1);
    if (s->x && s->normed && s->a && s->b && s->scores && s->activations.values && s->activations.scales && s->activations.sums &&
        s->team && s->alone)
        return s;
    kw_scratch_free(s);
    return NULL;
}

/* A row of activations in 8 bits where the product asks for it. */
static void prepare(const kw_matrix *m, kw_scratch *s, int r, const float *x) {
    if (!is_quantised(m)) return;
    size_t groups = m->num_in / GROUP;
    quantise_row(x, m->num_in, shift_of(m->type), s->activations.values + (size_t)r * m->num_in, s->activations.scales + r * groups,
                 s->activations.sums + r * groups);
}

/* This thread's tiles of a product; all its rows are prepared. */
static void apply(const kw_matrix *m, kw_scratch *s, kw_team *team, int who, int rows, const float *x, float *out, int out_stride) {
    int first, last;
    share(tiles_of(m), 4, who, team->size, &first, &last);
    multiply(m, first, last, rows, x, s->wide, &s->activations, out, out_stride);
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

/* One call: its rows and what becomes of them. */
typedef struct {
    const kw_model *model;
    kw_scratch *scratch;
    const kw_slot *cache;
    int rows, num_wanted, logits_stride;
    const int32_t *tokens, *slots, *positions, *wanted;
    float *logits;
} kw_call;

/* One thread's part of a layer; on entry the rows' `x` are whole, and the thread's own rows normed and prepared. */
static void through_layer(const kw_call *c, int index, kw_team *team, int who, int first, int last) {
    const kw_model *m = c->model;
    const kw_layer *layer = m->layers + index;
    kw_scratch *s = c->scratch;
    int wide = s->wide, rows = c->rows, K = m->num_kv_heads, from, to;
    apply(&layer->qkv, s, team, who, rows, s->normed, s->a, wide);
    meet(team);
    for (int r = first; r < last; r++) {
        const kw_slot *slot = c->cache + c->slots[r];
        place(m, layer, s->a + (size_t)r * wide, c->positions[r], slot->data + index * layer_bytes(m, slot->capacity), slot->capacity);
    }
    meet(team);
    share(rows * K, 1, who, team->size, &from, &to);
    for (int i = from; i < to; i++) {
        int r = i / K;
        float *scores = s->scores + who * s->scores_each;
        const float *q = s->a + (size_t)r * wide;
        float *out = s->b + (size_t)r * wide;
        const kw_slot *slot = c->cache + c->slots[r];
        switch (m->kv) {
        case KW_F32: attend(m, q, i % K, c->positions[r], slot, index, scores, out, KW_F32); break;
        case KW_F16: attend(m, q, i % K, c->positions[r], slot, index, scores, out, KW_F16); break;
        default: attend(m, q, i % K, c->positions[r], slot, index, scores, out, KW_Q8);
        }
    }
    meet(team);
    for (int r = first; r < last; r++) prepare(&layer->out, s, r, s->b + (size_t)r * wide);
    meet(team);
    apply(&layer->out, s, team, who, rows, s->b, s->a, wide);
    meet(team);
    for (int r = first; r < last; r++) {
        float *x = s->x + (size_t)r * wide, *normed = s->normed + (size_t)r * wide;
        add(x, s->a + (size_t)r * wide, m->width);
        rms_norm(x, layer->norm2, m->width, m->epsilon, normed);
        prepare(&layer->gate_up, s, r, normed);
    }
    meet(team);
    apply(&layer->gate_up, s, team, who, rows, s->normed, s->a, wide);
    meet(team);
    for (int r = first; r < last; r++) {
        gate(s->a + (size_t)r * wide, m->ffn);
        prepare(&layer->down, s, r, s->a + (size_t)r * wide);
    }
    meet(team);
    apply(&layer->down, s, team, who, rows, s->a, s->b, wide);
    meet(team);
    for (int r = first; r < last; r++) add(s->x + (size_t)r * wide, s->b + (size_t)r * wide, m->width);
}

/* One thread's part of a call, up to its logits. */
static void step(kw_team *team, int who, void *context) {
    const kw_call *c = context;
    const kw_model *m = c->model;
    kw_scratch *s = c->scratch;
    int wide = s->wide, first, last;
    share(c->rows, 1, who, team->size, &first, &last);
    for (int r = first; r < last; r++) read_row(m->embedding, c->tokens[r], s->x + (size_t)r * wide);
    for (int l = 0; l < m->num_layers; l++) {
        for (int r = first; r < last; r++) {
            float *normed = s->normed + (size_t)r * wide;
            rms_norm(s->x + (size_t)r * wide, m->layers[l].norm1, m->width, m->epsilon, normed);
            prepare(&m->layers[l].qkv, s, r, normed);
        }
        meet(team);
        through_layer(c, l, team, who, first, last);
    }
    if (!c->num_wanted) return;
    meet(team);
    share(c->num_wanted, 1, who, team->size, &first, &last);
    for (int i = first; i < last; i++) {
        float *normed = s->normed + (size_t)i * wide;
        rms_norm(s->x + (size_t)c->wanted[i] * wide, m->final_norm, m->width, m->epsilon, normed);
        prepare(m->head, s, i, normed);
    }
    meet(team);
    apply(m->head, s, team, who, c->num_wanted, s->normed, c->logits, c->logits_stride);
}

/* A call of so many rows is worth sharing out: waking and meeting cost about what a million products do. After a fork
   there is nobody to share with. */
static kw_team *team_for(const kw_model *m, const kw_scratch *s, int rows) {
    const kw_layer *l = m->layers;
    int64_t outs = (int64_t)l->qkv.num_out + 2 * m->ffn, ins = (int64_t)l->out.num_in + m->ffn;
    int64_t products = rows * (m->num_layers * (outs + ins) * m->width + (int64_t)m->vocab * m->width);
    return products < 2000000 || !is_here(s->team) ? s->alone : s->team;
}

/* One call over `rows` <= max_rows rows. A slot's rows come in the order of their positions. `wanted` names the rows whose
   logits are written, one after another, to `logits` with rows of `logits_stride` >= vocab padded to 16. */
void kw_step(const kw_model *m, kw_scratch *s, const kw_slot *cache, int rows, const int32_t *tokens, const int32_t *slots,
             const int32_t *positions, int num_wanted, const int32_t *wanted, float *logits, int logits_stride) {
    kw_call call = {m, s, cache, rows, num_wanted, logits_stride, tokens, slots, positions, wanted, logits};
    together(team_for(m, s, rows), step, &call);
}

/* Positions `first`, a multiple of 16, to `length` - 1 of what one slot holds into another, of any capacities. */
void kw_copy(const kw_model *m, const uint8_t *from, int A, uint8_t *to, int B, int first, int length) {
    size_t size = kv_bytes(m);
    int E = m->head_dim, V = padded(E);
    if (length <= first) return;
    for (int l = 0; l < m->num_layers; l++) {
        const uint8_t *a = from + l * layer_bytes(m, A);
        uint8_t *b = to + l * layer_bytes(m, B);
        for (size_t h = 0; h < (size_t)m->num_kv_heads; h++) { /* whole blocks of 16 keys */
            memcpy(b + (h * B + first) * E * size, a + (h * A + first) * E * size, (size_t)padded(length - first) * E * size);
            memcpy(b + (first_value(m, B) + (h * B + first) * V) * size, a + (first_value(m, A) + (h * A + first) * V) * size,
                   (size_t)(length - first) * V * size);
            if (m->kv == KW_Q8)
                for (int values = 0; values < 2; values++)
                    memcpy(scales_of(m, b, B, values, h) + first, scales_of(m, a, A, values, h) + first, (length - first) * sizeof(float));
        }
    }
}

#include "sampling.h"
