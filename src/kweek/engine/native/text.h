/* Text to token ids: byte-level BPE with the four ways of cutting text that kweek.tokenize.bytelevel.PATTERNS knows. */
#ifndef KWEEK_TEXT_H
#define KWEEK_TEXT_H
#include "weights.h"

enum { OTHER = 0, LETTER = 1, NUMBER = 2, BLANK = 3 };
enum { GPT2 = 1, QWEN2 = 2, LLAMA3 = 3, SMOLLM = 4 };

typedef struct {
    int32_t *ids;
    size_t count, room;
} id_list;

static void append(id_list *list, int32_t id) {
    if (list->count == list->room) {
        list->room = 2 * list->room + 64;
        list->ids = realloc(list->ids, list->room * sizeof *list->ids);
        if (!list->ids) refuse("no memory for the text");
    }
    list->ids[list->count++] = id;
}

/* Characters of a text, where each begins, and their classes; one more of each at the end. */
typedef struct {
    uint32_t *code;
    size_t *start;
    uint8_t *class;
    size_t count;
} characters;

static int class_of(const vocabulary *v, uint32_t code) {
    size_t low = 0, high = v->num_classes;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (v->classes[2 * middle] <= code) low = middle;
        else high = middle;
    }
    return v->num_classes ? (int)v->classes[2 * low + 1] : OTHER;
}

/* A byte that begins no whole character of UTF-8 stands for itself, as something that is neither letter nor number. */
static characters characters_of(const vocabulary *v, const uint8_t *text, size_t size) {
    characters c = {malloc((size + 1) * 4), malloc((size + 1) * sizeof(size_t)), malloc(size + 1), 0};
    if (!c.code || !c.start || !c.class) refuse("no memory for the text");
    for (size_t i = 0; i < size;) {
        uint32_t first = text[i], code = first;
        size_t length = first < 0x80 ? 1 : first >> 5 == 6 ? 2 : first >> 4 == 14 ? 3 : first >> 3 == 30 ? 4 : 1;
        if (length > size - i) length = 1;
        if (length > 1) code = first & (0x7fu >> length);
        for (size_t k = 1; k < length; k++) {
            if (text[i + k] >> 6 != 2) { length = 1, code = first; break; }
            code = code << 6 | (text[i + k] & 63);
        }
        c.start[c.count] = i, c.code[c.count] = code;
        c.class[c.count++] = length == 1 && first >= 0x80 ? OTHER : (uint8_t)class_of(v, code);
        i += length;
    }
    c.start[c.count] = size, c.code[c.count] = 0, c.class[c.count] = OTHER;
    return c;
}

static int is_break(uint32_t code) { return code == '\r' || code == '\n'; }

static uint32_t lower(uint32_t code, int any_case) {
    if (any_case && code == 0x17f) return 's'; /* the long s, by Unicode's folding */
    return any_case && code >= 'A' && code <= 'Z' ? code + 32 : code;
}

/* 's, 't, 're, 've, 'm, 'll, 'd: characters it takes at i, or 0. */
static size_t contraction(const characters *c, size_t i, int any_case) {
    if (c->code[i] != '\'' || i + 1 >= c->count) return 0;
    uint32_t a = lower(c->code[i + 1], any_case), b = i + 2 < c->count ? lower(c->code[i + 2], any_case) : 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

static size_t run_of(const characters *c, size_t i, int class) {
    while (i < c->count && c->class[i] == class) i++;
    return i;
}

/* Blanks from i on. The last of several belongs to the word behind them. */
static size_t blanks(const characters *c, size_t i, int split) {
    size_t end = run_of(c, i, BLANK);
    if (split == QWEN2 || split == LLAMA3)
        for (size_t k = end; k > i; k--)
            if (is_break(c->code[k - 1])) return k;
    int alone = end == c->count || (split == SMOLLM && c->class[end] == NUMBER);
    return alone || end - i == 1 ? end : end - 1;
}

/* Where the piece that begins at i ends; the alternatives in the order of the patterns. */
static size_t piece_end(const characters *c, size_t i, int split) {
    int qwen = split == QWEN2 || split == LLAMA3, class = c->class[i], more = i + 1 < c->count;
    size_t taken = contraction(c, i, qwen);
    if (taken) return i + taken;
    int spaced = more && (qwen ? class != LETTER && class != NUMBER && !is_break(c->code[i]) : c->code[i] == ' ');
    if (class == LETTER || (spaced && c->class[i + 1] == LETTER)) return run_of(c, i + (class != LETTER), LETTER);
    if (class == NUMBER) {
        size_t end = run_of(c, i, NUMBER), most = split == GPT2 ? end : i + (split == LLAMA3 ? 3 : 1);
        return end < most ? end : most;
    }
    if (split == GPT2 && spaced && c->class[i + 1] == NUMBER) return run_of(c, i + 1, NUMBER);
    if (class == OTHER || (more && c->code[i] == ' ' && c->class[i + 1] == OTHER)) {
        size_t end = run_of(c, i + (class != OTHER), OTHER);
        while (qwen && end < c->count && is_break(c->code[end])) end++;
        return end;
    }
    return blanks(c, i, split);
}

/* The token with these bytes, or -1. */
static int32_t token_of(const vocabulary *v, const uint8_t *bytes, size_t size) {
    size_t low = 0, high = v->num_ordered;
    while (low < high) {
        size_t middle = (low + high) / 2;
        int32_t id = v->ordered[middle];
        uint32_t begin = id ? v->ends[id - 1] : 0, length = v->ends[id] - begin;
        int order = memcmp(v->bytes + begin, bytes, length < size ? length : size);
        if (!order && length == size) return id;
        if (order < 0 || (!order && length < size)) low = middle + 1;
        else high = middle;
    }
    return -1;
}

/* A token's id is its rank: of all neighbours that make a token, the lowest is merged, until there are none. */
static void encode_piece(const vocabulary *v, const uint8_t *bytes, size_t size, id_list *out) {
    int32_t whole = token_of(v, bytes, size);
    if (whole >= 0) { append(out, whole); return; }
    size_t *start = malloc((size + 1) * sizeof *start), count = size;
    int32_t *rank = malloc((size + 1) * sizeof *rank);
    if (!start || !rank) refuse("no memory for the text");
    for (size_t i = 0; i <= size; i++) start[i] = i;
#define RANK(i) rank[i] = (i) + 1 < count ? token_of(v, bytes + start[i], start[(i) + 2] - start[i]) : -1
    for (size_t i = 0; i < count; i++) RANK(i);
    for (;;) {
        size_t best = count;
        for (size_t i = 0; i < count; i++)
            if (rank[i] >= 0 && (best == count || rank[i] < rank[best])) best = i;
        if (best == count) break;
        count--;
        memmove(start + best + 1, start + best + 2, (count - best) * sizeof *start);
        memmove(rank + best + 1, rank + best + 2, (count - best - 1) * sizeof *rank);
        RANK(best);
        if (best) RANK(best - 1);
    }
#undef RANK
    for (size_t i = 0; i < count; i++) {
        int32_t id = token_of(v, bytes + start[i], start[i + 1] - start[i]);
        if (id >= 0) append(out, id); /* bytes that no token has are left out, as Kweek's own encoder does */
    }
    free(start), free(rank);
}

static void encode(const vocabulary *v, int split, const uint8_t *text, size_t size, id_list *out) {
    characters c = characters_of(v, text, size);
    for (size_t i = 0; i < c.count;) {
        size_t end = piece_end(&c, i, split);
        encode_piece(v, text + c.start[i], c.start[end] - c.start[i], out);
        i = end;
    }
    free(c.code), free(c.start), free(c.class);
}

/* A question with the model's template around it, or, from a model without one, the beginning of a text. */
static void encode_question(const vocabulary *v, int split, const uint8_t *text, size_t size, id_list *out) {
    uint8_t *joined = malloc(v->before_size + size + v->after_size + 1);
    if (!joined) refuse("no memory for the text");
    memcpy(joined, v->before_text, v->before_size);
    memcpy(joined + v->before_size, text, size);
    memcpy(joined + v->before_size + size, v->after_text, v->after_size);
    for (size_t i = 0; i < v->num_before; i++) append(out, v->before[i]);
    encode(v, split, joined, v->before_size + size + v->after_size, out);
    for (size_t i = 0; i < v->num_after; i++) append(out, v->after[i]);
    free(joined);
}
#endif
