// Vectors of the processor, and the tile of sums that fills its registers. Included once per file of kernels.
#pragma once
#include <cstdint>
#include <type_traits>

namespace {

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64, TILE_VECTORS = 4;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32, TILE_VECTORS = 2;
#else
constexpr int VECTOR_BYTES = 16, TILE_VECTORS = 4;
#endif
// Small loops over registers, which have to be unrolled for their arrays to be registers.
#ifdef __clang__
#define UNROLLED _Pragma("clang loop unroll(full)")
#else
#define UNROLLED _Pragma("GCC unroll 16")
#endif
// A tile of TILE_ROWS × TILE_VECTORS sums fills the vector registers.
constexpr int TILE_ROWS = 6;
template <class T> struct Vector {
    typedef T type __attribute__((vector_size(VECTOR_BYTES)));
    typedef T unaligned __attribute__((vector_size(VECTOR_BYTES), aligned(alignof(T)), may_alias));
    typedef typename std::conditional<sizeof(T) == 4, int32_t, int64_t>::type index;
    typedef index indices __attribute__((vector_size(VECTOR_BYTES)));
    static constexpr int64_t lanes = VECTOR_BYTES / sizeof(T);
};

}  // namespace
