/* A model in one file, laid out as the kernels read it: mapped into memory, nothing is copied or converted. Written by
   kweek.compress.runner, which says the same layout in Python.

   Little-endian. 8 bytes "KWEEKRUN"; 30 numbers of 32 bits (`header`); the sections, 24 bytes each: type, 0, offset, size;
   then their bytes, each beginning at a multiple of 64. Every size follows from the header and is checked against the
   file before anything is read, so that no damaged file makes the program read beyond it. */
#ifndef KWEEK_WEIGHTS_H
#define KWEEK_WEIGHTS_H
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { VERSION = 1, PER_LAYER = 9, MOST = 1 << 24 };

typedef struct {
    char magic[8];
    int32_t version, num_layers, width, num_heads, num_kv_heads, head_dim, ffn, vocab, positions;
    int32_t split; /* how text is cut before it is encoded, see text.h; 0: it cannot be encoded */
    float epsilon;
    int32_t unused[19];
} header;

typedef struct {
    int32_t type, unused;
    uint64_t offset, size;
} section;

/* What follows the layers. Counts are those of the file. */
typedef struct {
    const uint32_t *ends; /* (vocab) where each token's bytes end */
    const uint8_t *bytes;
    const int32_t *ordered, *before, *after, *stops; /* tokens by their bytes; ids around a question; what ends an answer */
    const uint32_t *classes;                         /* (first character, class) of each run of characters */
    const uint8_t *before_text, *after_text;         /* what of the template is encoded together with the question */
    size_t num_ordered, num_before, num_after, num_stops, num_classes, before_size, after_size;
} vocabulary;

typedef struct {
    const uint8_t *data;
    const section *sections;
    size_t size;
    int at, count;
    const header *about;
    kw_model model;
    kw_matrix embedding, head;
    kw_layer *layers;
    vocabulary text;
} weights;

static void refuse(const char *what) {
    fprintf(stderr, "error: %s\n", what);
    exit(2);
}

/* The next section; `bytes` is its size, or a multiple of which it has, with `any`. */
static const void *next(weights *w, uint64_t bytes, int any, size_t *count) {
    if (w->at >= w->count) refuse("the weights file ends too early");
    const section *s = w->sections + w->at++;
    if (s->offset % 64 || s->offset > w->size || s->size > w->size - s->offset) refuse("the weights file is cut off or damaged");
    if (any ? s->size % bytes : s->size != bytes) refuse("the weights file is damaged: a section has a wrong size");
    if (count) *count = s->size / bytes;
    return w->data + s->offset;
}

static const float *vector(weights *w, uint64_t n, int optional) {
    if (optional && w->at < w->count && !w->sections[w->at].size) return w->at++, NULL;
    return next(w, 4 * n, 0, NULL);
}

static kw_matrix matrix(weights *w, int num_out, int num_in) {
    kw_matrix m = {0, num_out, num_in, NULL, NULL};
    if (w->at < w->count) m.type = w->sections[w->at].type;
    uint64_t tiles = tiles_of(&m), groups = (uint64_t)num_in / GROUP, bytes = 0;
    switch (m.type) {
    case KW_F32: bytes = tiles * TILE * num_in * 4; break;
    case KW_F16: bytes = tiles * TILE * num_in * 2; break;
    case KW_Q8: bytes = tiles * groups * (Q8_BLOCK + SCALE_BLOCK); break;
    case KW_Q4: bytes = tiles * groups * (Q4_BLOCK + SCALE_BLOCK); break;
    default: refuse("the weights file is damaged: a matrix has an unknown type");
    }
    if (is_quantised(&m) && num_in % GROUP) refuse("the weights file is damaged: a matrix has no whole groups");
    m.data = next(w, bytes, 0, NULL);
    return m;
}

static void check_ids(const int32_t *ids, size_t count, int vocab) {
    for (size_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= vocab) refuse("the weights file is damaged: an id is not in the vocabulary");
}

static void read_vocabulary(weights *w) {
    vocabulary *t = &w->text;
    int vocab = w->about->vocab;
    size_t bytes;
    t->ends = next(w, 4 * (uint64_t)vocab, 0, NULL);
    t->bytes = next(w, 1, 1, &bytes);
    t->ordered = next(w, 4, 1, &t->num_ordered);
    t->classes = next(w, 8, 1, &t->num_classes);
    t->before = next(w, 4, 1, &t->num_before), t->before_text = next(w, 1, 1, &t->before_size);
    t->after_text = next(w, 1, 1, &t->after_size), t->after = next(w, 4, 1, &t->num_after);
    t->stops = next(w, 4, 1, &t->num_stops);
    for (int i = 0; i < vocab; i++)
        if (t->ends[i] > bytes || (i && t->ends[i] < t->ends[i - 1])) refuse("the weights file is damaged: token bytes");
    check_ids(t->ordered, t->num_ordered, vocab), check_ids(t->before, t->num_before, vocab);
    check_ids(t->after, t->num_after, vocab), check_ids(t->stops, t->num_stops, vocab);
}

static void check_header(const header *h) {
    const int32_t *sizes = &h->num_layers;
    if (memcmp(h->magic, "KWEEKRUN", 8)) refuse("this is not a weights file of kweek export --runner");
    if (h->version != VERSION) refuse("the weights file is of another version of Kweek; export both files together");
    for (int i = 0; i < 8; i++)
        if (sizes[i] < 1 || sizes[i] > MOST) refuse("the weights file is damaged: a size is out of range");
    if (h->num_heads % h->num_kv_heads || h->head_dim % 2 || h->head_dim > MAX_HEAD_DIM || (int64_t)(h->num_heads + 2 * h->num_kv_heads) * h->head_dim > MOST)
        refuse("the weights file is damaged: the heads do not fit together");
    if (h->split < 0 || h->split > 4) refuse("the weights file is damaged: it cuts text in an unknown way");
}

static weights *open_weights(const char *path) {
    int file = open(path, O_RDONLY);
    struct stat status;
    if (file < 0 || fstat(file, &status)) { fprintf(stderr, "%s: ", path), refuse("the weights file cannot be opened"); }
    weights *w = calloc(1, sizeof *w);
    if (!w) refuse("no memory");
    w->size = (size_t)status.st_size;
    if (w->size < sizeof(header)) refuse("this is not a weights file of kweek export --runner");
    w->data = mmap(NULL, w->size, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    if (w->data == MAP_FAILED) refuse("the weights file cannot be mapped into memory");
    const header *h = w->about = (const header *)w->data;
    check_header(h);
    uint64_t count = 5 + (uint64_t)PER_LAYER * h->num_layers + 9;
    if (count * sizeof(section) > w->size - sizeof(header)) refuse("the weights file is cut off or damaged");
    w->sections = (const section *)(w->data + sizeof(header)), w->count = (int)count;
    int inner = h->num_heads * h->head_dim, qkv = inner + 2 * h->num_kv_heads * h->head_dim;
    kw_model *m = &w->model;
    m->num_layers = h->num_layers, m->width = h->width, m->num_heads = h->num_heads, m->num_kv_heads = h->num_kv_heads;
    m->head_dim = h->head_dim, m->ffn = h->ffn, m->vocab = h->vocab, m->kv = KW_F16, m->epsilon = h->epsilon;
    w->embedding = w->head = matrix(w, h->vocab, h->width);
    if (w->sections[w->at].size) w->head = matrix(w, h->vocab, h->width);
    else w->at++; /* one matrix is both */
    m->embedding = &w->embedding, m->head = &w->head;
    m->final_norm = vector(w, h->width, 0);
    m->cosines = vector(w, (uint64_t)h->positions * (h->head_dim / 2), 0);
    m->sines = vector(w, (uint64_t)h->positions * (h->head_dim / 2), 0);
    m->layers = w->layers = calloc(h->num_layers, sizeof(kw_layer));
    if (!w->layers) refuse("no memory");
    for (int l = 0; l < h->num_layers; l++) {
        kw_layer *layer = w->layers + l;
        layer->qkv = matrix(w, qkv, h->width), layer->qkv.bias = vector(w, qkv, 1);
        layer->out = matrix(w, h->width, inner);
        layer->gate_up = matrix(w, 2 * h->ffn, h->width), layer->down = matrix(w, h->width, h->ffn);
        layer->norm1 = vector(w, h->width, 0), layer->norm2 = vector(w, h->width, 0);
        layer->q_norm = vector(w, h->head_dim, 1), layer->k_norm = vector(w, h->head_dim, 1);
    }
    read_vocabulary(w);
    return w;
}
#endif
