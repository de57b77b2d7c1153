/* Runs a model on a machine without Python: the library's own code and a file of weights that is mapped, not read.

   run WEIGHTS [TEXT ...]; without text, every line of the standard input is a question of its own. */
#include "native.c"
#include <sys/resource.h>
#include <time.h>
#include "text.h"

enum { CHUNK = 32 }; /* tokens of a prompt in one call */

typedef struct {
    int count, threads, as_ids, only_encode;
    float temperature;
    uint64_t seed;
} options;

static const char *const USAGE =
    "usage: run [-n COUNT] [-t TEMPERATURE] [-s SEED] [-j THREADS] [-i | -e] WEIGHTS [TEXT ...]\n"
    "  Answers the text, or every line of the standard input, each as a question of its own.\n"
    "  -n  tokens at most (256)\n"
    "  -t  temperature (0: always the likeliest token)\n"
    "  -s  seed of what is drawn (0)\n"
    "  -j  threads (1); any number of them gives the same answer\n"
    "  -i  TEXT is token ids; each token of the answer is a line: its id, its log-probability, and by how much its\n"
    "      logit leads that of the likeliest other one\n"
    "  -e  show the token ids of the text as the model would get them, and stop\n";

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static double uniform(uint64_t *state) { /* splitmix64, in [0, 1) */
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

/* Kilobytes held at most. Linux counts what the calling program held before this one in getrusage, so not that there. */
static long peak_memory(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    long found = (long)used.ru_maxrss;
    FILE *status = fopen("/proc/self/status", "r");
    char line[256];
    while (status && fgets(line, sizeof line, status)) sscanf(line, "VmHWM: %ld", &found);
    if (status) fclose(status);
    return found;
}

static int is_stop(const vocabulary *v, int32_t token) {
    for (size_t i = 0; i < v->num_stops; i++)
        if (v->stops[i] == token) return 1;
    return 0;
}

static float lead_of(const float *logits, int vocab, int token) {
    float most = -INFINITY;
    for (int i = 0; i < vocab; i++) most = i != token && logits[i] > most ? logits[i] : most;
    return logits[token] - most;
}

static void show(const weights *w, const options *o, const kw_choice *choice, const float *logits) {
    uint32_t begin = choice->token ? w->text.ends[choice->token - 1] : 0;
    if (o->as_ids) printf("%d %.6f %.6f\n", choice->token, choice->logprob, lead_of(logits, w->about->vocab, choice->token));
    else fwrite(w->text.bytes + begin, 1, w->text.ends[choice->token] - begin, stdout);
    fflush(stdout);
}

/* Keys and values are f16, as many as this prompt and its answer need. */
static kw_slot new_slot(const kw_model *m, int tokens) {
    int blocks = (tokens + TILE - 1) / TILE;
    kw_slot slot = {NULL, TILE * (blocks + 1 - blocks % 2), 0, NULL, 0, 0}; /* an odd number of blocks: not all in one set of the cache */
    slot.data = calloc(1, kw_slot_bytes(m, slot.capacity));
    if (!slot.data) refuse("no memory for the keys and values");
    return slot;
}

static void answer(const weights *w, const options *o, const id_list *prompt) {
    const kw_model *m = &w->model;
    int length = (int)prompt->count, room = w->about->positions - length, slots[CHUNK] = {0}, positions[CHUNK], stride = padded(m->vocab);
    if (length < 1) refuse("there is nothing to answer");
    if (room < 1) {
        fprintf(stderr, "error: %d tokens are more than the model's %d positions leave room for\n", length, w->about->positions);
        exit(2);
    }
    int most = o->count < room ? o->count : room, made = 0;
    kw_slot slot = new_slot(m, length + most);
    kw_scratch *scratch = kw_scratch_new(m, CHUNK, slot.capacity, o->threads);
    float *logits = aligned(4 * (size_t)stride), lse;
    void *work = aligned(kw_work_bytes(m) * o->threads);
    if (!scratch || !logits || !work) refuse("no memory");
    double started = seconds();
    for (int at = 0; at < length - 1;) {
        int now = length - 1 - at < CHUNK ? length - 1 - at : CHUNK;
        for (int i = 0; i < now; i++) positions[i] = at + i;
        kw_step(m, scratch, &slot, now, prompt->ids + at, slots, positions, 0, NULL, NULL, 0);
        at += now;
    }
    double read = seconds();
    kw_row row = {.position = length - 1, .token = prompt->ids[length - 1], .temperature = o->temperature, .top_p = 1.0f};
    uint64_t state = o->seed;
    while (made < most) {
        kw_choice choice;
        double drawn = uniform(&state);
        row.remaining = 1, row.uniforms = &drawn;
        kw_run(m, scratch, &slot, 1, &row, 1, 0, NULL, NULL, NULL, &choice, logits, stride, &lse, work);
        if (row.done == 2) refuse("the model's logits are not numbers");
        made++;
        if (is_stop(&w->text, choice.token)) break;
        show(w, o, &choice, logits);
    }
    double ended = seconds();
    if (!o->as_ids) putchar('\n');
    fprintf(stderr, "prompt: %d tokens, %.1f per second; answer: %d tokens, %.1f per second; %ld kB of memory at most\n", length,
            (length - 1) / (read - started + 1e-9), made, made / (ended - read + 1e-9), peak_memory());
    kw_scratch_free(scratch), free(logits), free(work), free(slot.data);
}

static void answer_text(const weights *w, const options *o, const char *text) {
    id_list prompt = {NULL, 0, 0};
    if (!w->about->split) refuse("this model's tokenizer is one that only Kweek reads; give token ids with -i");
    encode_question(&w->text, w->about->split, (const uint8_t *)text, strlen(text), &prompt);
    if (o->only_encode)
        for (size_t i = 0; i < prompt.count; i++) printf("%d%c", prompt.ids[i], i + 1 < prompt.count ? ' ' : '\n');
    else answer(w, o, &prompt);
    free(prompt.ids);
}

static long long number(const char *word, long long least, long long most) {
    char *end;
    long long value = word ? strtoll(word, &end, 10) : 0;
    if (!word || end == word || *end || value < least || value > most) {
        fprintf(stderr, "error: %s is not a whole number from %lld to %lld\n", word ? word : "nothing", least, most);
        exit(2);
    }
    return value;
}

static void answer_ids(const weights *w, const options *o, char **words) {
    id_list prompt = {NULL, 0, 0};
    for (; *words; words++) append(&prompt, (int32_t)number(*words, 0, w->about->vocab - 1));
    answer(w, o, &prompt);
    free(prompt.ids);
}

static void answer_lines(const weights *w, const options *o) {
    char *line = NULL;
    size_t room = 0;
    ssize_t size;
    while ((size = getline(&line, &room, stdin)) >= 0) {
        while (size && (line[size - 1] == '\n' || line[size - 1] == '\r')) line[--size] = 0;
        if (size) answer_text(w, o, line);
    }
    free(line);
}

int main(int argc, char **argv) {
    options o = {256, 1, 0, 0, 0.0f, 0};
    int flag;
    char *end;
    while ((flag = getopt(argc, argv, "n:t:s:j:ieh")) >= 0)
        switch (flag) {
        case 'n': o.count = (int)number(optarg, 1, MOST); break;
        case 't':
            o.temperature = strtof(optarg, &end);
            if (*end || !(o.temperature >= 0.0f)) refuse("-t takes a number from 0 on");
            break;
        case 's': o.seed = (uint64_t)number(optarg, 0, INT64_MAX); break;
        case 'j': o.threads = (int)number(optarg, 1, 256); break;
        case 'i': o.as_ids = 1; break;
        case 'e': o.only_encode = 1; break;
        default: fputs(USAGE, flag == 'h' ? stdout : stderr); return flag == 'h' ? 0 : 2;
        }
    if (optind >= argc) { fputs(USAGE, stderr); return 2; }
    weights *w = open_weights(argv[optind++]);
    if (o.as_ids) answer_ids(w, &o, argv + optind);
    else if (optind == argc) answer_lines(w, &o);
    else
        for (; optind < argc; optind++) answer_text(w, &o, argv[optind]);
    return 0;
}
