// One warp at a time runs up to the next barrier of its block, its lanes in turn; orders are drawn anew for each round.
// Stacks are switched by _setjmp and _longjmp, which cost nanoseconds where swapcontext asks the kernel.

#include "fibers.h"

#include <csetjmp>
#include <deque>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include <ucontext.h>

namespace legato_emulation {
namespace {

constexpr int kLanes = 32;
constexpr size_t kStack = 256 * 1024;  // touched pages alone cost memory
constexpr size_t kGuard = 4096;
constexpr unsigned char kPoison = 0xff;  // NaN in every floating dtype

enum class State { kRuns, kWaitsForWarp, kWaitsForBlock, kEnded };

struct Copy {
  void* to;
  const void* from;
};

struct Fiber {
  std::unique_ptr<unsigned char[]> stack{new unsigned char[kStack]};
  ucontext_t entry;
  jmp_buf context;
  bool started = false;
  State state = State::kEnded;
  uint3 position;
  int warp, lane;
  size_t round = 0;  // of the collective that it waits for
  std::deque<std::vector<Copy>> copies{1};
};

// Two buffers in turn: nobody writes to one before all have read it, for that takes a round of the other.
struct Warp {
  alignas(16) unsigned char payloads[2][kLanes][kPayload];
  size_t round = 0;
  int arrived = 0;
  const char* what = nullptr;
};

struct Machine {
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<Warp> warps;
  std::vector<unsigned char> memory;
  unsigned char* shared = nullptr;
  size_t shared_bytes = 0;
  const std::function<void()>* kernel = nullptr;
  Fiber* current = nullptr;
  jmp_buf scheduler;
  std::string error;
  std::map<const void*, size_t> limits;
  unsigned long seed = 0;
  std::mt19937_64 random;
};

Machine machine;

// 0 .. n-1; seed 0: ascending, 1: descending, else shuffled
std::vector<int> order(size_t n) {
  std::vector<int> result(n);
  std::iota(result.begin(), result.end(), 0);
  if (machine.seed == 1) std::reverse(result.begin(), result.end());
  if (machine.seed > 1) std::shuffle(result.begin(), result.end(), machine.random);
  return result;
}

void leave() {
  if (_setjmp(machine.current->context) == 0) _longjmp(machine.scheduler, 1);
}

void live() {
  for (;;) {
    (*machine.kernel)();
    machine.current->state = State::kEnded;
    leave();
  }
}

void enter(Fiber& fiber) {
  machine.current = &fiber;
  threadIdx = fiber.position;
  if (_setjmp(machine.scheduler) == 0) {
    if (fiber.started) _longjmp(fiber.context, 1);
    fiber.started = true;
    getcontext(&fiber.entry);
    fiber.entry.uc_stack.ss_sp = fiber.stack.get();
    fiber.entry.uc_stack.ss_size = kStack;
    fiber.entry.uc_link = nullptr;
    makecontext(&fiber.entry, &live, 0);
    setcontext(&fiber.entry);
  }
  if (!machine.error.empty()) throw std::runtime_error(machine.error);
}

// Until every lane has ended or waits for the block.
void run_warp(int index, size_t threads) {
  const Warp& warp = machine.warps[index];
  const int first = index * kLanes, lanes = std::min<int>(kLanes, static_cast<int>(threads) - first);
  for (;;) {
    bool moved = false, waits = false;
    for (const int lane : order(lanes)) {
      Fiber& fiber = *machine.fibers[first + lane];
      const bool released = fiber.state == State::kWaitsForWarp && fiber.round < warp.round;
      if (released || fiber.state == State::kRuns) {
        fiber.state = State::kRuns;
        enter(fiber);
        moved = true;
      }
      waits = waits || fiber.state == State::kRuns || fiber.state == State::kWaitsForWarp;
    }
    if (!waits) return;
    if (!moved) throw std::runtime_error(std::string("some lanes of a warp never come to ") + warp.what);
  }
}

void run_block(size_t threads) {
  std::fill(machine.memory.begin(), machine.memory.end(), kPoison);
  for (size_t i = 0; i < threads; ++i) {
    Fiber& fiber = *machine.fibers[i];
    const unsigned flat = static_cast<unsigned>(i);
    fiber.position = {flat % blockDim.x, flat / blockDim.x % blockDim.y, flat / blockDim.x / blockDim.y};
    fiber.state = State::kRuns;
    fiber.copies.assign(1, {});
  }
  for (;;) {
    for (const int warp : order(machine.warps.size()))
      run_warp(warp, threads);
    size_t ended = 0;
    for (size_t i = 0; i < threads; ++i)
      ended += machine.fibers[i]->state == State::kEnded;
    if (ended == threads) break;
    if (ended > 0) throw std::runtime_error("some threads end while others wait at __syncthreads");
    for (size_t i = 0; i < threads; ++i)
      machine.fibers[i]->state = State::kRuns;
  }
  for (size_t i = 0; i < kGuard; ++i) {
    if (machine.shared[machine.shared_bytes + i] != kPoison ||
        machine.shared[-1 - static_cast<ptrdiff_t>(i)] != kPoison)
      throw std::runtime_error("a kernel wrote outside of its shared memory");
  }
}

void prepare(size_t threads, size_t shared_bytes) {
  while (machine.fibers.size() < threads) {
    machine.fibers.push_back(std::make_unique<Fiber>());
    Fiber& fiber = *machine.fibers.back();
    fiber.warp = static_cast<int>(machine.fibers.size() - 1) / kLanes;
    fiber.lane = static_cast<int>(machine.fibers.size() - 1) % kLanes;
  }
  machine.warps.assign((threads + kLanes - 1) / kLanes, Warp());
  constexpr size_t kAlignment = 1024;
  machine.memory.assign(shared_bytes + 2 * kGuard + kAlignment, kPoison);
  const auto start = reinterpret_cast<uintptr_t>(machine.memory.data()) + kGuard;
  machine.shared = machine.memory.data() + kGuard + (kAlignment - start % kAlignment) % kAlignment;
  machine.shared_bytes = shared_bytes;
}

}  // namespace

size_t& shared_limit(const void* kernel) {
  return machine.limits.try_emplace(kernel, 48 * 1024).first->second;
}

void run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& kernel) {
  const size_t threads = size_t{block.x} * block.y * block.z;
  prepare(threads, shared_bytes);
  machine.kernel = &kernel;
  machine.error.clear();
  machine.random.seed(machine.seed);
  gridDim = grid;
  blockDim = block;
  try {
    for (const int i : order(size_t{grid.x} * grid.y * grid.z)) {
      const unsigned flat = static_cast<unsigned>(i);
      blockIdx = {flat % grid.x, flat / grid.x % grid.y, flat / grid.x / grid.y};
      run_block(threads);
    }
  } catch (...) {
    for (auto& fiber : machine.fibers)
      fiber->started = false;
    throw;
  }
}

void* shared_memory() {
  return machine.shared;
}
int lane() {
  return machine.current->lane;
}

void fail(const char* what) {
  machine.error = what;
  leave();
  __builtin_unreachable();
}

void wait_for_block() {
  machine.current->state = State::kWaitsForBlock;
  leave();
}

const unsigned char* gather(const char* what, unsigned mask, const void* mine, size_t size) {
  if (mask != ~0u) fail("a collective without all lanes of its warp is not emulated");
  Fiber& fiber = *machine.current;
  Warp& warp = machine.warps[fiber.warp];
  if (warp.arrived == 0) warp.what = what;
  if (std::strcmp(warp.what, what) != 0) fail("lanes of a warp meet at different collectives");
  const size_t round = warp.round;
  std::memcpy(warp.payloads[round % 2][fiber.lane], mine, size);
  if (++warp.arrived < kLanes) {
    fiber.state = State::kWaitsForWarp;
    fiber.round = round;
    leave();
  } else {
    warp.arrived = 0;
    ++warp.round;
  }
  return warp.payloads[round % 2][0];
}

void require_shared(const char* what, const void* address, size_t size) {
  const auto* at = static_cast<const unsigned char*>(address);
  if (reinterpret_cast<uintptr_t>(at) % size != 0) fail((std::string(what) + ": address is not aligned").c_str());
  if (at < machine.shared || at + size > machine.shared + machine.shared_bytes)
    fail((std::string(what) + ": address is not in shared memory").c_str());
}

void note_copy(void* shared, const void* global) {
  require_shared("cp_async_16", shared, 16);
  if (reinterpret_cast<uintptr_t>(global) % 16 != 0) fail("cp_async_16: global address is not aligned");
  std::memset(shared, kPoison, 16);  // neither old nor new until it is waited for
  machine.current->copies.back().push_back({shared, global});
}

void close_group() {
  machine.current->copies.emplace_back();
}

void wait_for_copies(size_t groups_left) {
  auto& groups = machine.current->copies;
  while (groups.size() > groups_left + 1) {  // the last one is open yet
    for (const Copy& copy : groups.front()) {
      if (copy.from == nullptr)
        std::memset(copy.to, 0, 16);
      else
        std::memcpy(copy.to, copy.from, 16);
    }
    groups.pop_front();
  }
}

}  // namespace legato_emulation

// 0: threads, warps and blocks run in ascending order; 1: descending; any other: shuffled by it.
extern "C" __attribute__((visibility("default"))) void legato_emulation_order(unsigned long seed) {
  legato_emulation::machine.seed = seed;
}

// The current stream, of which there is one.
extern "C" int32_t aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return 0;
}
