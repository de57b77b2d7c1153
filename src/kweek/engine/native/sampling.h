/* From logits to tokens, and several steps in one call for rows that need nobody between them. */
#ifndef KWEEK_SAMPLING_H
#define KWEEK_SAMPLING_H
#include "kernels.h"

typedef struct {
    int32_t slot, position, token; /* the next token to go through the network, and where */
    int32_t remaining;             /* tokens this row may still produce */
    int32_t top_k;                 /* 0: all */
    float temperature, top_p, min_p;
    int32_t produced, done;        /* set by kw_run; done is 2 where the logits are not numbers */
    int32_t rides_on, unused;      /* 0, or 1 + the row whose logits this one chooses from, as long as both say the same */
    const double *uniforms;        /* one per token to come; unused when greedy */
    const uint8_t *events;         /* (vocab) non-zero: the row pauses after this token; or NULL */
    const uint8_t *allowed;        /* (vocab) zero: may not come; or NULL */
    const float *bias;             /* (vocab) added to the logits; or NULL */
} kw_row;

typedef struct {
    int32_t token;
    float logprob, processed, kept;
} kw_choice;

typedef struct { float p; int32_t id; } kw_candidate;

static int by_probability(const void *a, const void *b) {
    const kw_candidate *x = a, *y = b;
    if (x->p != y->p) return x->p < y->p ? 1 : -1;
    return x->id < y->id ? -1 : 1;
}

INLINE float largest_of(const float *x, int n) {
    vec best = splat(-INFINITY);
    int i = 0;
    for (; i + WIDTH <= n; i += WIDTH) best = larger_of(load(x + i), best);
    float result = largest_lane(best)[0];
    for (; i < n; i++) result = x[i] > result ? x[i] : result;
    return result;
}

/* p[i] = exp((x[i] - largest) / temperature), zeros up to whole registers; their sum. */
static double exponentials(const float *x, int n, float largest, float inverse_temperature, float *p) {
    double total = 0.0;
    int i = 0;
    while (i + WIDTH <= n) { /* some registers in fp32, their sums in fp64 */
        int end = i + 32 * WIDTH < n ? i + 32 * WIDTH : n;
        vec part = splat(0.0f);
        for (; i + WIDTH <= end; i += WIDTH) {
            vec e = exp_of((load(x + i) - splat(largest)) * splat(inverse_temperature));
            store(p + i, e);
            part += e;
        }
        total += sum_of(part);
    }
    if (i < n) {
        float tail[WIDTH];
        for (int j = 0; j < WIDTH; j++) tail[j] = i + j < n ? (x[i + j] - largest) * inverse_temperature : -INFINITY;
        vec e = exp_of(load(tail));
        store(p + i, e);
        total += sum_of(e);
    }
    return total;
}

static int draw(const float *p, int n, double point) {
    double passed = 0.0;
    int last = 0;
    for (int i = 0; i < n; i += WIDTH) {
        double block = sum_of(load(p + i));
        if (block > 0.0) last = i;
        if (passed + block < point) {
            passed += block;
            continue;
        }
        for (int j = i; j < i + WIDTH && j < n; j++) {
            passed += p[j];
            if (p[j] > 0.0f && passed >= point) return j;
        }
    }
    for (int j = last; j < n; j++) /* rounding left the point beyond the sum */
        if (p[j] > 0.0f) return j;
    return -1;
}

/* The candidates that top-k, top-p and min-p leave, best first; returns how many, and their mass in `kept`. */
static int truncated(const kw_row *row, const float *p, int n, double total, kw_candidate *found, double *kept) {
    /* Eighths of octaves as buckets, from the likeliest down, until enough is in them: only these are sorted. */
    enum { TOP = 0x3f800000 >> 20 };
    int32_t counts[TOP + 1] = {0};
    double masses[TOP + 1] = {0.0};
    for (int i = 0; i < n; i++) {
        int32_t bits;
        memcpy(&bits, p + i, 4);
        int bucket = bits >> 20;
        if (bucket > TOP) bucket = TOP;
        counts[bucket]++, masses[bucket] += p[i];
    }
    int64_t count = 0;
    double mass = 0.0;
    int lowest = TOP;
    for (; lowest > 0; lowest--) {
        count += counts[lowest], mass += masses[lowest];
        if ((row->top_k && count >= row->top_k) || mass >= (double)row->top_p * total) break;
    }
    int size = 0;
    for (int i = 0; i < n; i++) {
        int32_t bits;
        memcpy(&bits, p + i, 4);
        if (p[i] > 0.0f && (bits >> 20) >= lowest) found[size].p = p[i], found[size++].id = i;
    }
    qsort(found, size, sizeof *found, by_probability);
    int left = 0;
    *kept = 0.0;
    while (left < size && !(row->top_k && left >= row->top_k) && found[left].p >= row->min_p * found[0].p) {
        *kept += found[left++].p;
        if (*kept >= (double)row->top_p * total) break;
    }
    return left;
}

/* One token for a row, or -1 where the logits are not numbers or nothing is allowed. `p` holds vocab floats in whole tiles, `found` vocab candidates. */
static kw_choice choose(const kw_row *row, const float *logits, int vocab, float *p, kw_candidate *found, float *lse) {
    kw_choice choice = {0, 0.0f, 0.0f, 1.0f};
    float largest = largest_of(logits, vocab);
    double whole = exponentials(logits, vocab, largest, 1.0f, p);
    *lse = largest + (float)log(whole);
    choice.token = -1;
    if (!isfinite(*lse)) return choice;
    const float *shaped = logits;
    if (row->bias || row->allowed) {
        float *changed = (float *)(found + vocab); /* behind the candidates */
        for (int i = 0; i < vocab; i++)
            changed[i] = row->allowed && !row->allowed[i] ? -INFINITY : logits[i] + (row->bias ? row->bias[i] : 0.0f);
        shaped = changed;
        largest = largest_of(shaped, vocab);
        if (!isfinite(largest)) return choice;
    }
    if (row->temperature < 1e-4f) { /* nearer to zero, fp32 has no inverse to trust */
        for (int i = 0; i < vocab; i++)
            if (shaped[i] == largest) { choice.token = i; break; }
    } else {
        int as_is = shaped == logits && row->temperature == 1.0f; /* then they are in `p` already */
        double total = as_is ? whole : exponentials(shaped, vocab, largest, 1.0f / row->temperature, p), kept = total;
        double u = *row->uniforms;
        if (row->top_k || row->top_p < 1.0f || row->min_p > 0.0f) {
            int size = truncated(row, p, vocab, total, found, &kept);
            double passed = 0.0;
            choice.token = found[size - 1].id;
            for (int i = 0; i < size; i++) {
                passed += found[i].p;
                if (passed >= u * kept) { choice.token = found[i].id; break; }
            }
        } else
            choice.token = draw(p, vocab, u * total);
        if (choice.token >= 0) choice.processed = (float)log((double)p[choice.token] / kept);
        choice.kept = (float)(kept / total);
    }
    if (choice.token >= 0) choice.logprob = logits[choice.token] - *lse;
    return choice;
}

/* Bytes that each thread of `kw_run` needs to choose with: probabilities, candidates, changed logits. */
size_t kw_work_bytes(const kw_model *m) {
    return ((size_t)padded(m->vocab) * 8 + (size_t)m->vocab * sizeof(kw_candidate) + 256) / 64 * 64;
}

/* A call, and the choices that follow it. */
typedef struct {
    kw_call call;
    kw_row *row;
    int choosing;
    const int32_t *who, *from; /* a row that chooses, and which of the wanted logits from */
    kw_choice *chosen;
    float *lse;
    uint8_t *work;
} kw_turn;

static void step_and_choose(kw_team *team, int who, void *context) {
    kw_turn *turn = context;
    const kw_call *c = &turn->call;
    int first, last;
    step(team, who, &turn->call);
    meet(team);
    float *p = (float *)(turn->work + who * kw_work_bytes(c->model));
    share(turn->choosing, 1, who, team->size, &first, &last);
    for (int i = first; i < last; i++)
        turn->chosen[i] = choose(turn->row + turn->who[i], c->logits + (size_t)turn->from[i] * c->logits_stride, c->model->vocab, p,
                                 (kw_candidate *)(p + padded(c->model->vocab)), turn->lse + i);
}

/* The log-probability of one token in each row of logits. */
void kw_logprobs(const kw_model *m, int rows, const float *logits, int stride, const int32_t *targets, float *out, float *p) {
    for (int r = 0; r < rows; r++) {
        const float *x = logits + (size_t)r * stride;
        float largest = largest_of(x, m->vocab);
        out[r] = x[targets[r]] - largest - (float)log(exponentials(x, m->vocab, largest, 1.0f, p));
    }
}

enum { MOST_ROWS = 1024 };

/* Up to `steps` tokens for each row, in as many calls of the network; a row that met an event, or has produced all it may,
   is passed over; once a quarter of those that began are, the call ends, since full calls cost less per row and others may
   be waiting. A row that rides on one before it has no place in the network: it chooses from the other's logits, until it
   chooses something else or the other is done. `extra` rows go through the network with the first call and produce
   nothing: prompts, and what tools said. `choices` has (rows, steps). `logits` has a row for each that does not ride and
   afterwards holds those of the last call, in the order of the rows that were in it; `lse`, of `rows` numbers, the logarithm
   of the sum of their exponentials, those of riders behind. Returns the calls made. */
int kw_run(const kw_model *m, kw_scratch *s, const kw_slot *cache, int rows, kw_row *row, int steps, int extra, const int32_t *tokens,
           const int32_t *slots, const int32_t *positions, kw_choice *choices, float *logits, int stride, float *lse, void *work) {
    int32_t token[MOST_ROWS], slot[MOST_ROWS], position[MOST_ROWS], wanted[MOST_ROWS] = {0}, who[MOST_ROWS], from[MOST_ROWS], at[MOST_ROWS];
    kw_choice chosen[MOST_ROWS];
    int made = 0, began = 0, own = 0;
    for (int r = 0; r < rows; r++) own += !row[r].rides_on;
    if (own + extra > s->max_rows || s->max_rows > MOST_ROWS || rows > MOST_ROWS) return -1;
    for (int r = 0; r < rows; r++) {
        row[r].produced = 0, row[r].done = row[r].remaining <= 0;
        if (row[r].rides_on && row[row[r].rides_on - 1].done) row[r].done = 1;
    }
    for (int step = 0; step < steps; step++) {
        int n = 0, active = 0, choosing = 0;
        if (step == 0)
            for (; n < extra; n++) token[n] = tokens[n], slot[n] = slots[n], position[n] = positions[n];
        for (int r = 0; r < rows; r++) {
            if (row[r].done || row[r].rides_on) continue;
            token[n] = row[r].token, slot[n] = row[r].slot, position[n] = row[r].position;
            who[choosing] = r, from[choosing++] = at[r] = active, wanted[active++] = n++;
        }
        for (int r = 0; r < rows; r++)
            if (!row[r].done && row[r].rides_on) who[choosing] = r, from[choosing++] = at[row[r].rides_on - 1];
        if (!step) began = choosing;
        if (!n || 4 * choosing < 3 * began) break;
        kw_turn turn = {{m, s, cache, n, active, stride, token, slot, position, wanted, logits}, row, choosing, who, from, chosen, lse, work};
        together(team_for(m, s, n), step_and_choose, &turn);
        made++;
        for (int i = 0; i < choosing; i++) { /* riders come last: what they ride on has moved on */
            kw_row *now = row + who[i];
            kw_choice *choice = choices + (size_t)who[i] * steps + now->produced;
            *choice = chosen[i];
            if (choice->token < 0) {
                now->done = 2;
                continue;
            }
            now->token = choice->token, now->position++, now->produced++, now->uniforms++;
            if (--now->remaining <= 0 || (now->events && now->events[choice->token])) now->done = 1;
            if (now->rides_on) {
                const kw_row *leader = row + now->rides_on - 1;
                if (leader->done || leader->token != now->token) now->done = 1;
            }
        }
    }
    return made;
}
#endif
