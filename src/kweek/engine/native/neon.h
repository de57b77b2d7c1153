/* 64-bit Arm: products with 8-bit activations, with the dot product of Armv8.2 where the processor has it, else with the
   multiplications of the first Armv8 (a Raspberry Pi up to 4). One library holds both; which runs is asked once. */
#ifndef KWEEK_NEON_H
#define KWEEK_NEON_H
#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif

#define QUANT_ROWS 4

/* Codes of inputs 4 * c to 4 * c + 3 for four outputs; `w` is their place in the first block. */
INLINE int8x16_t codes_at(const int bits, const uint8_t *w, const int c) {
    if (bits == 8) return vld1q_s8((const int8_t *)w + c * 64);
    uint8x16_t both = vld1q_u8(w + c / 2 * 64);
    return vreinterpretq_s8_u8(c % 2 ? vshrq_n_u8(both, 4) : vandq_u8(both, vdupq_n_u8(15)));
}

#if !defined(__ARM_FEATURE_DOTPROD)
#define BLOCK(part) quant_plain##part
#define TARGET
#define SDOT 0
#include "neon_block.h"
#undef BLOCK
#undef TARGET
#undef SDOT
#endif

#if defined(__ARM_FEATURE_DOTPROD) || defined(__linux__)
#define BLOCK(part) quant_dot##part
#if defined(__ARM_FEATURE_DOTPROD)
#define TARGET
#else
#define TARGET __attribute__((target("arch=armv8.2-a+dotprod")))
#endif
#define SDOT 1
#include "neon_block.h"
#endif

INLINE int has_dotprod(void) {
#if defined(__ARM_FEATURE_DOTPROD)
    return 1;
#elif defined(__linux__)
    enum { ASIMDDP = 1 << 20 }; /* HWCAP_ASIMDDP, which older headers lack */
    static int known; /* 1: no, 2: yes; threads that ask at once find the same */
    int found = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (!found) {
        found = getauxval(AT_HWCAP) & ASIMDDP ? 2 : 1;
        __atomic_store_n(&known, found, __ATOMIC_RELAXED);
    }
    return found == 2;
#else
    return 0;
#endif
}

static void quant_block(int bits, const uint8_t *data, int groups, const int8_t *a, const float *scales, const int32_t *sums, float *out,
                        int out_stride, int R, int T) {
#if defined(__ARM_FEATURE_DOTPROD)
    quant_dot(bits, data, groups, a, scales, sums, out, out_stride, R, T);
#else
#if defined(__linux__)
    if (has_dotprod()) {
        quant_dot(bits, data, groups, a, scales, sums, out, out_stride, R, T);
        return;
    }
#endif
    quant_plain(bits, data, groups, a, scales, sums, out, out_stride, R, T);
#endif
}
#endif
