// The library's entry points: picks the instruction set at run time and spreads the work over torch's threads.

#include "problem.h"

#include <cmath>
#include <cstring>
#include <memory>
#include <type_traits>

#if defined(_WIN32)
#define EXPORT extern "C" __declspec(dllexport)
#else
#define EXPORT extern "C" __attribute__((visibility("default")))
#endif

using Range = void (*)(int64_t begin, int64_t end, void* problem);

#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wpsabi"  // packs wider than the baseline's registers never cross a call
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // the registers that the intrinsics of GCC 12 begin from
#endif

namespace baseline {
#if defined(__GNUC__)
constexpr int LANES = 4;
#else
constexpr int LANES = 1;
#endif
#include "storage.h"
#include "deformable.h"
#include "fused.h"
}  // namespace baseline

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define X86_LEVELS
#include <immintrin.h>

#define X86_LANES 8
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
namespace avx2 {
constexpr int LANES = 8;
#include "storage.h"
#include "deformable.h"
#include "fused.h"
}  // namespace avx2
#pragma GCC pop_options
#undef X86_LANES

#define X86_LANES 16
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,prefer-vector-width=512")
namespace avx512 {
constexpr int LANES = 16;
#include "storage.h"
#include "deformable.h"
#include "fused.h"
}  // namespace avx512
#pragma GCC pop_options
#undef X86_LANES
#endif

namespace {

enum Level { BASELINE, AVX2, AVX512 };

Level best_level() {
#if defined(X86_LEVELS)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") &&
        __builtin_cpu_supports("f16c"))
        return AVX2;
#endif
    return BASELINE;
}

Level level = best_level();

using ParallelFor = int32_t (*)(int64_t begin, int64_t end, int64_t grain, Range range, void* context);
ParallelFor parallel_for = nullptr;

void spread(int64_t count, int64_t grain, Range range, void* problem) {
    if (count <= 0) return;
    if (parallel_for == nullptr || parallel_for(0, count, grain, range, problem) != 0) range(0, count, problem);
}

Range pick(int64_t storage, bool forward) {
#if defined(X86_LEVELS)
    if (level == AVX512) return forward ? avx512::forward_of(storage) : avx512::backward_of(storage);
    if (level == AVX2) return forward ? avx2::forward_of(storage) : avx2::backward_of(storage);
#endif
    return forward ? baseline::forward_of(storage) : baseline::backward_of(storage);
}

Range pick_fused(const FusedProblem& problem) {
#if defined(X86_LEVELS)
    if (level == AVX512) return avx512::fused_of(problem.pass, problem.storage);
    if (level == AVX2) return avx2::fused_of(problem.pass, problem.storage);
#endif
    return baseline::fused_of(problem.pass, problem.storage);
}

// Pixels, rows or slices one thread should take at least, so that a thread is worth waking.
int64_t grain_of(int64_t values_each) {
    const int64_t enough = 1 << 14;
    return values_each >= enough ? 1 : enough / (values_each > 0 ? values_each : 1);
}

}  // namespace

EXPORT void internimage_deformable_forward(DeformableProblem* problem) {
    spread(problem->n * problem->h_out * problem->w_out, grain_of(problem->channels()), pick(problem->storage, true), problem);
}

EXPORT void internimage_deformable_backward(DeformableProblem* problem) {
    spread(problem->n * problem->groups, grain_of(problem->h_out * problem->w_out * problem->depth),
           pick(problem->storage, false), problem);
}

EXPORT void internimage_fused(FusedProblem* problem) {
    const int64_t width = problem->pass == DEPTHWISE ? problem->w_out : 1;
    spread(problem->rows, grain_of(width * problem->channels), pick_fused(*problem), problem);
}

// torch_parallel_for of the C shim that libtorch_cpu exports since 2.10: torch's own thread pool.
EXPORT void internimage_set_parallel_for(void* function) { parallel_for = reinterpret_cast<ParallelFor>(function); }

EXPORT const char* internimage_instruction_set() {
    static const char* const names[] = {"baseline", "avx2", "avx512"};
    return names[level];
}

// Bytes of the structures that are passed, by which a caller of another version is known before it does harm.
EXPORT int64_t internimage_bytes_passed() { return int64_t(sizeof(DeformableProblem) * 65536 + sizeof(FusedProblem)); }

// For tests and benchmarks: use a lower instruction set than the machine's best. Returns whether the machine has it.
EXPORT int internimage_set_instruction_set(const char* name) {
    const Level best = best_level();
    for (int candidate = BASELINE; candidate <= best; ++candidate) {
        static const char* const names[] = {"baseline", "avx2", "avx512"};
        if (std::strcmp(name, names[candidate]) == 0) {
            level = Level(candidate);
            return 1;
        }
    }
    return 0;
}
