/* Vectors and matrix products. Compiled once per instruction set; the choice is made when the library is loaded.

   A matrix of O outputs and I inputs is cut into tiles of 16 outputs, so that a vector lane is an output and no sum runs
   across lanes. Every output is summed over its inputs in one fixed order, whatever the number of rows: a batch of 64
   gives the bits of a batch of 1.

   Layout of a tile:
     f32, f16   [I][16]
     q8         [I/32][8][64] bytes, byte 4*o+i of block j = input 4*j+i of output o; then [I/32][16] scales in f16
     q4         [I/32][4][64] bytes, low nibble of byte 4*o+i = input 8*j+i plus 8, high = 8*j+4+i plus 8; then the
                scales as in q8 */
#ifndef KWEEK_KERNELS_H
#define KWEEK_KERNELS_H
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define TILE 16
#define GROUP 32
#define Q8_BLOCK (TILE * GROUP) /* bytes of a tile's codes in one group */
#define Q4_BLOCK (TILE * GROUP / 2)
#define SCALE_BLOCK (2 * TILE)
#define INLINE static inline __attribute__((always_inline))

/* `vec` is what the instruction set holds in one register: compilers split longer vectors badly. */
#if defined(__AVX512F__)
#define WIDTH 16
#elif defined(__AVX2__)
#define WIDTH 8
#else
#define WIDTH 4
#endif
#define PARTS (TILE / WIDTH) /* registers of a tile */
typedef float vec __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));

enum { KW_F32 = 0, KW_F16 = 1, KW_Q8 = 2, KW_Q4 = 3 };

typedef struct {
    int32_t type, num_out, num_in; /* num_out is padded to whole tiles in `data` only */
    const void *data;
    const float *bias; /* num_out values or NULL */
} kw_matrix;

INLINE float half_to_float(uint16_t h) {
    union { uint32_t u; float f; } out;
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, mantissa = h & 1023u;
    if (exponent == 31) out.u = sign | 0x7f800000u | (mantissa << 13);
    else if (exponent) out.u = sign | ((exponent + 112u) << 23) | (mantissa << 13);
    else { out.f = (float)mantissa * 5.9604644775390625e-8f; out.u |= sign; } /* 2^-24 */
    return out.f;
}

INLINE uint16_t float_to_half(float f) { /* to nearest even; for the cache of keys and values */
#if defined(__F16C__)
    return (uint16_t)_cvtss_sh(f, 0);
#elif defined(__aarch64__)
    union { __fp16 h; uint16_t u; } out = {(__fp16)f};
    return out.u;
#else
    union { float f; uint32_t u; } in = {f};
    uint32_t sign = (in.u >> 16) & 0x8000u, magnitude = in.u & 0x7fffffffu;
    if (magnitude >= 0x7f800000u) return (uint16_t)(sign | 0x7c00u | (magnitude > 0x7f800000u ? 0x200u : 0u));
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);
    if (magnitude < 0x38800000u) { /* subnormal */
        union { uint32_t u; float f; } m = {magnitude};
        return (uint16_t)(sign | (uint32_t)lrintf(m.f * 16777216.0f));
    }
    uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    return (uint16_t)(sign | ((rounded - 0x38000000u) >> 13));
#endif
}

/* Through the type itself: gcc 12 copies 32 bytes in halves by way of the stack, which costs a stall each time. */
INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec v) { *(vec *)p = v; }
INLINE vec splat(float x) { return x - (vec){0}; }

INLINE vec load_half(const uint16_t *p) {
#if defined(__AVX512F__)
    return (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
#elif defined(__F16C__)
    return (vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
#elif defined(__aarch64__)
    return (vec)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
#else
    vec v;
    for (int i = 0; i < WIDTH; i++) v[i] = half_to_float(p[i]);
    return v;
#endif
}

INLINE vec load_bytes(const int8_t *p) {
#if defined(__AVX512F__)
    return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
#elif defined(__AVX2__)
    return (vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
#else
    vec v;
    for (int i = 0; i < WIDTH; i++) v[i] = (float)p[i];
    return v;
#endif
}

/* Numbers of a type (KW_F32, KW_F16; KW_Q8 without its scale) from number `at` on; a constant where this is called. */
INLINE vec load_number(const void *p, size_t at, const int type) {
    return type == KW_F16 ? load_half((const uint16_t *)p + at) : type == KW_Q8 ? load_bytes((const int8_t *)p + at) : load((const float *)p + at);
}

INLINE void store_half(uint16_t *p, vec v) {
#if defined(__AVX512F__)
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph((__m512)v, 0));
#elif defined(__F16C__)
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph((__m256)v, 0));
#else
    for (int i = 0; i < WIDTH; i++) p[i] = float_to_half(v[i]);
#endif
}

INLINE vec choose_by(ivec mask, vec yes, vec no) { return (vec)(((ivec)yes & mask) | ((ivec)no & ~mask)); }

INLINE vec larger_of(vec a, vec b) {
#if defined(__AVX512F__)
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return choose_by(a > b, a, b);
#endif
}

INLINE ivec larger_whole(ivec a, ivec b) {
#if defined(__AVX512F__)
    return (ivec)_mm512_max_epi32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (ivec)_mm256_max_epi32((__m256i)a, (__m256i)b);
#else
    ivec more = a > b;
    return (a & more) | (b & ~more);
#endif
}

/* Lane i of the result is lane i ^ step; `step` is a power of two, constant where this is called. */
INLINE vec exchanged(vec v, const int step) {
#if defined(__AVX512F__)
    switch (step) {
    case 8: return (vec)_mm512_shuffle_f32x4((__m512)v, (__m512)v, 0x4e);
    case 4: return (vec)_mm512_shuffle_f32x4((__m512)v, (__m512)v, 0xb1);
    case 2: return (vec)_mm512_permute_ps((__m512)v, 0x4e);
    default: return (vec)_mm512_permute_ps((__m512)v, 0xb1);
    }
#elif defined(__AVX2__)
    switch (step) {
    case 4: return (vec)_mm256_permute2f128_ps((__m256)v, (__m256)v, 1);
    case 2: return (vec)_mm256_permute_ps((__m256)v, 0x4e);
    default: return (vec)_mm256_permute_ps((__m256)v, 0xb1);
    }
#else
    vec out;
    for (int i = 0; i < WIDTH; i++) out[i] = v[i ^ step];
    return out;
#endif
}

INLINE float sum_of(vec v) { /* in pairs, always the same ones */
    for (int step = WIDTH / 2; step; step /= 2) v += exchanged(v, step);
    return v[0];
}

INLINE vec largest_lane(vec v) { /* in every lane */
    for (int step = WIDTH / 2; step; step /= 2) v = larger_of(v, exchanged(v, step));
    return v;
}

/* exp by 2^n * 2^f, f in [-1/2, 1/2], a polynomial of degree 6 (relative error 2e-7; Cephes); 0 below -87. */
INLINE vec exp_of(vec x) {
    ivec below = x < splat(-87.0f);
    x = choose_by(x > splat(88.0f), splat(88.0f), x);
    vec magic = splat(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    vec shifted = x * splat(1.44269504088896341f) + magic;
    ivec n = (ivec)shifted - (ivec)magic;
    vec whole = shifted - magic;
    vec f = x - whole * splat(0.693359375f); /* ln 2 in two parts */
    f = f + whole * splat(2.12194440e-4f);
    vec p = splat(1.9875691500e-4f);
    p = p * f + splat(1.3981999507e-3f);
    p = p * f + splat(8.3334519073e-3f);
    p = p * f + splat(4.1665795894e-2f);
    p = p * f + splat(1.6666665459e-1f);
    p = p * f + splat(5.0000001201e-1f);
    p = p * f * f + f + splat(1.0f);
    ivec power = (n + 127) << 23;
    vec result = p * (vec)power;
    return (vec)((ivec)result & ~below);
}

/* ---- f32 and f16 weights: R rows by T tiles at once ------------------------------------------------------------- */

#if defined(__AVX512F__)
#define FLOAT_ROWS 6
#define FLOAT_TILES 2
#elif defined(__AVX2__) || defined(__aarch64__)
#define FLOAT_ROWS 6
#define FLOAT_TILES 1
#else
#define FLOAT_ROWS 2
#define FLOAT_TILES 1
#endif

INLINE void float_block(const int half, const uint8_t *data, int num_in, const float *x, int stride, float *out,
                        int out_stride, const int R, const int T) {
    vec sum[FLOAT_ROWS][4 * PARTS];
    size_t tile_bytes = (size_t)num_in * TILE * (half ? 2 : 4);
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T * PARTS; t++) sum[r][t] = splat(0.0f);
    const float *further = x + 3 * (size_t)stride; /* three rows from each: their addresses then fit the registers */
    for (int k = 0; k < num_in; k++, x++, further++) {
        vec w[4 * PARTS];
        for (int t = 0; t < T; t++)
            for (int p = 0; p < PARTS; p++)
                w[t * PARTS + p] = load_number(data + t * tile_bytes, (size_t)k * TILE + p * WIDTH, half);
        for (int r = 0; r < R; r++)
            for (int t = 0; t < T * PARTS; t++) sum[r][t] += w[t] * splat((r < 3 ? x : further)[(size_t)(r % 3) * stride]);
    }
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T * PARTS; t++) store(out + (size_t)r * out_stride + t * WIDTH, sum[r][t]);
}

/* ---- quantised weights: activations in 8 bits per group of 32 ----------------------------------------------------- */

typedef struct {
    int8_t *values;  /* [rows][I] */
    float *scales;   /* [rows][I / 32] */
    int32_t *sums;   /* [rows][I / 32] of the values, times minus what the weights' codes are shifted by */
} kw_activations;

#define LEAST 1e-30f /* what is smaller gets codes of 0: its inverse would be infinite */

/* How far the codes of the weights are shifted to be unsigned. */
INLINE int shift_of(int type) { return type == KW_Q4 ? 8 : 128; }

/* A group's codes, from 32 bits to 8. */
INLINE void narrow(const ivec *q, int8_t *out) {
#if defined(__AVX512F__)
    for (int i = 0; i < GROUP / WIDTH; i++) _mm_storeu_si128((__m128i *)(out + i * WIDTH), _mm512_cvtepi32_epi8((__m512i)q[i]));
#elif defined(__AVX2__)
    __m256i words = _mm256_packs_epi32((__m256i)q[0], (__m256i)q[1]), more = _mm256_packs_epi32((__m256i)q[2], (__m256i)q[3]);
    __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7); /* packing keeps to halves of a register */
    _mm256_storeu_si256((__m256i *)out, _mm256_permutevar8x32_epi32(_mm256_packs_epi16(words, more), order));
#else
    for (int i = 0; i < GROUP; i++) out[i] = (int8_t)q[i / WIDTH][i % WIDTH];
#endif
}

/* Codes -127 to 127 times a scale for every group; `sums` are minus `shift` times the sum of a group's codes. Sizes are
   compared by their bits, whose order is the same, and in which what is not a number is the largest: such a group gets
   a scale that is none either. (As numbers, the larger of something and no number is either of them.) */
static void quantise_row(const float *x, int num_in, int shift, int8_t *values, float *scales, int32_t *sums) {
    enum { PIECES = GROUP / WIDTH };
    const vec magic = splat(12582912.0f); /* as in exp_of */
    for (int g = 0; g < num_in / GROUP; g++, x += GROUP, values += GROUP) {
        ivec bits = (ivec){0};
        for (int i = 0; i < PIECES; i++) bits = larger_whole(bits, (ivec)load(x + i * WIDTH) & 0x7fffffff);
        for (int step = WIDTH / 2; step; step /= 2) bits = larger_whole(bits, (ivec)exchanged((vec)bits, step));
        vec most = (vec)bits;
        vec inverse = (vec)((ivec)(splat(127.0f) / most) & (most > splat(LEAST)));
        ivec total = (ivec){0}, q[PIECES];
        for (int i = 0; i < PIECES; i++) {
            q[i] = (ivec)(load(x + i * WIDTH) * inverse + magic) - (ivec)magic;
            total += q[i];
        }
        narrow(q, values);
        for (int step = WIDTH / 2; step; step /= 2) total += (ivec)exchanged((vec)total, step);
        scales[g] = most[0] * (1.0f / 127.0f);
#if defined(__AVX2__) && !defined(__AVX512VNNI__)
        sums[g] = -shift * total[0] & 0xffff; /* starts the first of two sums in 16 bits; the other starts at 0 */
#else
        sums[g] = -shift * total[0];
#endif
    }
}

#if defined(__AVX512VNNI__)
#define QUANT_ROWS 4
INLINE __m512i four_bytes(const int8_t *p) { int32_t v; memcpy(&v, p, 4); return _mm512_set1_epi32(v); }

INLINE void quant_block(const int bits, const uint8_t *data, int groups, const int8_t *a, const float *scales, const int32_t *sums,
                        float *out, int out_stride, const int R, const int T) {
    const int block = bits == 4 ? Q4_BLOCK : Q8_BLOCK;
    const size_t tile_bytes = (size_t)groups * (block + SCALE_BLOCK);
    const __m512i low = _mm512_set1_epi8(15), flip = _mm512_set1_epi8((char)0x80);
    __m512 sum[QUANT_ROWS][4];
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++) sum[r][t] = _mm512_setzero_ps();
    for (int g = 0; g < groups; g++) {
        __m512i dot[QUANT_ROWS][4];
        for (int r = 0; r < R; r++) {
            __m512i start = _mm512_set1_epi32(sums[(size_t)r * groups + g]);
            for (int t = 0; t < T; t++) dot[r][t] = start;
        }
        const uint8_t *w = data + (size_t)g * block;
        if (bits == 4) {
            for (int j = 0; j < 4; j++)
                for (int t = 0; t < T; t++) {
                    __m512i both = _mm512_loadu_si512(w + t * tile_bytes + j * 64);
                    __m512i lo = _mm512_and_si512(both, low), hi = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
                    for (int r = 0; r < R; r++) {
                        const int8_t *at = a + ((size_t)r * groups + g) * GROUP + 8 * j;
                        dot[r][t] = _mm512_dpbusd_epi32(dot[r][t], lo, four_bytes(at));
                        dot[r][t] = _mm512_dpbusd_epi32(dot[r][t], hi, four_bytes(at + 4));
                    }
                }
        } else {
            for (int j = 0; j < 8; j++)
                for (int t = 0; t < T; t++) {
                    __m512i v = _mm512_xor_si512(_mm512_loadu_si512(w + t * tile_bytes + j * 64), flip);
                    for (int r = 0; r < R; r++)
                        dot[r][t] = _mm512_dpbusd_epi32(dot[r][t], v, four_bytes(a + ((size_t)r * groups + g) * GROUP + 4 * j));
                }
        }
        for (int t = 0; t < T; t++) {
            __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(data + t * tile_bytes + (size_t)groups * block + g * SCALE_BLOCK)));
            for (int r = 0; r < R; r++)
                sum[r][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[r][t]),
                                            _mm512_mul_ps(scale, _mm512_set1_ps(scales[(size_t)r * groups + g])), sum[r][t]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++) _mm512_storeu_ps(out + (size_t)r * out_stride + t * TILE, sum[r][t]);
}
#elif defined(__AVX2__)
#define QUANT_ROWS 4
#define AHEAD 4096 /* bytes that one row, which waits for memory, asks for in advance */
#define UNPACKED_ROWS 8   /* from so many rows on it pays to unpack nibbles once for all of them */
#define UNPACKED_GROUPS 32 /* at a time: 8 KiB, which stay in the nearest cache */
enum { NIBBLES = 4, BYTES = 8, UNPACKED = 0 };
INLINE __m256i four_bytes(const int8_t *p) { int32_t v; memcpy(&v, p, 4); return _mm256_set1_epi32(v); }

/* Half a tile at a time. A nibble times 8 bits, two at once, summed over a group is at most 8 * 2 * 15 * 127 = 30,480:
   16 bits hold it; what is taken off for the shift of the codes is at most 8 * 32 * 127 = 32,512 and fits as well, and
   their difference is at most 32,512. With 8-bit weights every pair of products is widened at once (2 * 127 * 127). */
INLINE void quant_half(const int form, const uint8_t *codes, const size_t code_step, const uint8_t *weight_scales, int first, int last,
                       int groups, const int8_t *a, const float *scales, const int32_t *sums, float *out, int out_stride, const int R) {
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    __m256 sum[QUANT_ROWS];
    for (int r = 0; r < R; r++) sum[r] = first ? _mm256_loadu_ps(out + (size_t)r * out_stride) : _mm256_setzero_ps();
    for (int g = first; g < last; g++, codes += code_step, weight_scales += SCALE_BLOCK) {
        __m256i dot[QUANT_ROWS];
        for (int r = 0; r < R; r++) dot[r] = form == BYTES ? _mm256_setzero_si256() : _mm256_set1_epi32(sums[(size_t)r * groups + g]);
        if (form == NIBBLES) {
#pragma GCC unroll 1
            for (int j = 0; j < 4; j++) { /* unrolled, gcc runs out of registers */
                __m256i both = _mm256_loadu_si256((const __m256i *)(codes + j * 64));
                __m256i lo = _mm256_and_si256(both, low), hi = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
                for (int r = 0; r < R; r++) {
                    const int8_t *at = a + ((size_t)r * groups + g) * GROUP + 8 * j;
                    dot[r] = _mm256_add_epi16(dot[r], _mm256_maddubs_epi16(lo, four_bytes(at)));
                    dot[r] = _mm256_add_epi16(dot[r], _mm256_maddubs_epi16(hi, four_bytes(at + 4)));
                }
            }
        } else if (form == UNPACKED) {
#pragma GCC unroll 4
            for (int j = 0; j < 8; j++) {
                __m256i v = _mm256_load_si256((const __m256i *)(codes + j * 32));
                for (int r = 0; r < R; r++)
                    dot[r] = _mm256_add_epi16(dot[r], _mm256_maddubs_epi16(v, four_bytes(a + ((size_t)r * groups + g) * GROUP + 4 * j)));
            }
        } else {
#pragma GCC unroll 1
            for (int j = 0; j < 8; j++) {
                if (R == 1) _mm_prefetch((const char *)codes + j * 64 + AHEAD, _MM_HINT_T0);
                __m256i v = _mm256_loadu_si256((const __m256i *)(codes + j * 64)), size = _mm256_abs_epi8(v);
                for (int r = 0; r < R; r++) {
                    __m256i signed_a = _mm256_sign_epi8(four_bytes(a + ((size_t)r * groups + g) * GROUP + 4 * j), v);
                    dot[r] = _mm256_add_epi32(dot[r], _mm256_madd_epi16(_mm256_maddubs_epi16(size, signed_a), ones));
                }
            }
        }
        __m256 scale = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)weight_scales));
        for (int r = 0; r < R; r++) {
            __m256i wide = form == BYTES ? dot[r] : _mm256_madd_epi16(dot[r], ones);
            sum[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(wide), _mm256_mul_ps(scale, _mm256_set1_ps(scales[(size_t)r * groups + g])), sum[r]);
        }
    }
    for (int r = 0; r < R; r++) _mm256_storeu_ps(out + (size_t)r * out_stride, sum[r]);
}

/* Both halves of a tile of nibbles for one row, which waits for memory: activations are spread once for both. The same
   sums in the same order as in `quant_half`. */
INLINE void quant_row(const uint8_t *codes, const uint8_t *weight_scales, int groups, const int8_t *a, const float *scales,
                      const int32_t *sums, float *out) {
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    __m256 sum[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (int g = 0; g < groups; g++, codes += Q4_BLOCK, weight_scales += SCALE_BLOCK) {
        __m256i dot[2];
        dot[0] = dot[1] = _mm256_set1_epi32(sums[g]);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            _mm_prefetch((const char *)codes + j * 64 + AHEAD, _MM_HINT_T0);
            const __m256i first = four_bytes(a + (size_t)g * GROUP + 8 * j), second = four_bytes(a + (size_t)g * GROUP + 8 * j + 4);
            for (int h = 0; h < 2; h++) {
                __m256i both = _mm256_loadu_si256((const __m256i *)(codes + j * 64 + 32 * h));
                __m256i lo = _mm256_and_si256(both, low), hi = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
                dot[h] = _mm256_add_epi16(dot[h], _mm256_maddubs_epi16(lo, first));
                dot[h] = _mm256_add_epi16(dot[h], _mm256_maddubs_epi16(hi, second));
            }
        }
        for (int h = 0; h < 2; h++) {
            __m256 scale = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(weight_scales + 16 * h)));
            sum[h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_madd_epi16(dot[h], ones)), _mm256_mul_ps(scale, _mm256_set1_ps(scales[g])), sum[h]);
        }
    }
    for (int h = 0; h < 2; h++) _mm256_storeu_ps(out + 8 * h, sum[h]);
}

INLINE void quant_block(const int bits, const uint8_t *data, int groups, const int8_t *a, const float *scales, const int32_t *sums,
                        float *out, int out_stride, const int R, const int T) {
    const size_t block = bits == 4 ? Q4_BLOCK : Q8_BLOCK, tile_bytes = groups * (block + SCALE_BLOCK);
    for (int t = 0; t < T; t++, data += tile_bytes) {
        if (R == 1 && bits == 4) {
            quant_row(data, data + groups * block, groups, a, scales, sums, out + t * TILE);
            continue;
        }
        for (int h = 0; h < 2; h++)
            quant_half(bits, data + 32 * h, block, data + groups * block + 16 * h, 0, groups, groups, a, scales, sums,
                       out + t * TILE + 8 * h, out_stride, R);
    }
}

/* One tile of nibbles with many rows. The same sums in the same order as in `quant_block`. */
static void quant_unpacked(const uint8_t *data, int groups, int rows, const kw_activations *x, float *out, int out_stride) {
    const __m256i low = _mm256_set1_epi8(15);
    __m256i codes[8 * UNPACKED_GROUPS];
    for (int h = 0; h < 2; h++, out += 8)
        for (int first = 0; first < groups; first += UNPACKED_GROUPS) {
            int last = first + UNPACKED_GROUPS < groups ? first + UNPACKED_GROUPS : groups;
            for (int i = 0; i < 4 * (last - first); i++) {
                __m256i both = _mm256_loadu_si256((const __m256i *)(data + (size_t)first * Q4_BLOCK + i * 64 + 32 * h));
                codes[2 * i] = _mm256_and_si256(both, low);
                codes[2 * i + 1] = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
            }
            const uint8_t *scales = data + (size_t)groups * Q4_BLOCK + first * SCALE_BLOCK + 16 * h;
#define UNPACKED_CASE(n) \
    case n: quant_half(UNPACKED, (const uint8_t *)codes, GROUP * 8, scales, first, last, groups, x->values + r * groups * GROUP, \
                       x->scales + r * groups, x->sums + r * groups, out + r * out_stride, out_stride, n); break;
            for (size_t r = 0; r < (size_t)rows; r += QUANT_ROWS)
                switch (rows - r < QUANT_ROWS ? rows - r : QUANT_ROWS) {
                    UNPACKED_CASE(1) UNPACKED_CASE(2) UNPACKED_CASE(3) UNPACKED_CASE(4)
                }
        }
}
#elif defined(__aarch64__)
#include "neon.h"
#else
#define QUANT_ROWS 4
INLINE void quant_block(const int bits, const uint8_t *data, int groups, const int8_t *a, const float *scales, const int32_t *sums,
                        float *out, int out_stride, const int R, const int T) {
    const int block = bits == 4 ? Q4_BLOCK : Q8_BLOCK;
    const size_t tile_bytes = (size_t)groups * (block + SCALE_BLOCK);
    for (int t = 0; t < T; t++)
        for (int r = 0; r < R; r++) {
            float sum[TILE] = {0};
            for (int g = 0; g < groups; g++) {
                const uint8_t *q = data + t * tile_bytes + (size_t)g * block;
                const uint16_t *w = (const uint16_t *)(data + t * tile_bytes + (size_t)groups * block + g * SCALE_BLOCK);
                const int8_t *at = a + ((size_t)r * groups + g) * GROUP;
                int32_t dot[TILE];
                for (int o = 0; o < TILE; o++) dot[o] = bits == 4 ? sums[(size_t)r * groups + g] : 0;
                if (bits == 4) {
                    for (int j = 0; j < 4; j++)
                        for (int o = 0; o < TILE; o++)
                            for (int i = 0; i < 4; i++) {
                                uint8_t both = q[j * 64 + 4 * o + i];
                                dot[o] += (both & 15) * at[8 * j + i] + (both >> 4) * at[8 * j + 4 + i];
                            }
                } else {
                    for (int j = 0; j < 8; j++)
                        for (int o = 0; o < TILE; o++)
                            for (int i = 0; i < 4; i++) dot[o] += (int8_t)q[j * 64 + 4 * o + i] * at[4 * j + i];
                }
                float scale = scales[(size_t)r * groups + g];
                for (int o = 0; o < TILE; o++) sum[o] += (float)dot[o] * (half_to_float(w[o]) * scale);
            }
            memcpy(out + (size_t)r * out_stride + t * TILE, sum, sizeof sum);
        }
}
#endif
#endif
