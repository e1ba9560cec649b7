// The instruction sets that the library has code for, and that this CPU has.
#pragma once

#include "kernel.h"

#if defined(_WIN32)
extern "C" __declspec(dllimport) unsigned long GetActiveProcessorCount(unsigned short group);
#else
#include <unistd.h>
#endif
#if defined(__linux__)
#include <sys/auxv.h>
#endif

namespace bnlstm {

inline int processors() {
#if defined(_WIN32)
  return static_cast<int>(GetActiveProcessorCount(0xffff));
#else
  return static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
#endif
}

struct InstructionSet {
  const Kernel &kernel;
  bool (*available)();
};

#if defined(__x86_64__)

struct Registers {
  uint32_t a, b, c, d;
};

inline Registers cpuid(uint32_t leaf) {
  Registers r;
  __asm__("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "a"(leaf), "c"(0));
  return r;
}

// Whether the operating system keeps these parts of a thread's registers, as bits of XCR0.
inline bool kept(uint32_t parts) {
  constexpr uint32_t OSXSAVE = 1u << 27;
  if (!(cpuid(1).c & OSXSAVE)) return false;
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & parts) == parts;
}

// Bits of leaf 7's EBX.
inline bool has(uint32_t features) {
  return cpuid(0).a >= 7 && (cpuid(7).b & features) == features;
}

inline bool has_avx2() {
  constexpr uint32_t AVX2 = 1u << 5, AVX_AND_FMA = 1u << 28 | 1u << 12, XMM_YMM = 0x6;
  return kept(XMM_YMM) && (cpuid(1).c & AVX_AND_FMA) == AVX_AND_FMA && has(AVX2);
}

inline bool has_avx512() {
  constexpr uint32_t F_DQ_BW_VL = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31, AND_ZMM = 0xe6;
  return has_avx2() && kept(AND_ZMM) && has(F_DQ_BW_VL);
}

// AVX512-VNNI.
inline bool has_dots() {
  constexpr uint32_t VNNI = 1u << 11;
  return has_avx512() && (cpuid(7).c & VNNI);
}

#elif defined(__APPLE__)

inline bool has_dots() { return true; }  // all of Apple's that run macOS

#elif defined(__linux__)

inline bool has_dots() {
  constexpr unsigned long ASIMDDP = 1ul << 20;
  return getauxval(AT_HWCAP) & ASIMDDP;
}

#else

inline bool has_dots() { return false; }

#endif

inline bool always() { return true; }

// The best comes last.
#if defined(__x86_64__)
constexpr InstructionSet INSTRUCTION_SETS[] = {
    {baseline, always}, {avx2, has_avx2}, {avx512, has_avx512}};
#else
constexpr InstructionSet INSTRUCTION_SETS[] = {{neon, always}};
#endif

}  // namespace bnlstm
