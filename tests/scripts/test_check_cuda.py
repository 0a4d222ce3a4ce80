"""The kernels' budget: what ptxas says is read rightly, and everything over the budget or without one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import check_cuda, cuda_toolkit
from scripts.check_cuda import Limit, judge, propose, read_budget
from scripts.ptxas import CheckError, Usage, parse_ptxas, short_name

# Recorded from nvcc 13.0 -Xptxas -v, and the form that versions before 12 give; long names cut.
PTXAS = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN6legato5scaleIfEEvPT_i' for 'sm_80'
ptxas info    : Function properties for _ZN6legato5scaleIfEEvPT_i
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 12 registers, used 1 barriers, 512 bytes smem, 364 bytes cmem[0]
ptxas info    : Compile time = 18.646 ms
ptxas info    : Compiling entry function '_ZN6legato6spillsEPKfPfi' for 'sm_80'
ptxas info    : Function properties for _ZN6legato6spillsEPKfPfi
    856 bytes stack frame, 1044 bytes spill stores, 1152 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 856 bytes cumulative stack size, 372 bytes cmem[0]
ptxas info    : Compiling entry function 'caller' for 'sm_80'
ptxas info    : Function properties for caller
    8 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Function properties for _ZN6legato6calledEf
    48 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 40 registers, 64 bytes lmem, 4096+0 bytes smem, 372 bytes cmem[0]
"""

SPILLING = """
namespace legato {
namespace {
template <int N>
__global__ void __launch_bounds__(1024) shuffle(const float* in, float* out, int n) {
  float values[N];
#pragma unroll
  for (int i = 0; i < N; ++i) values[i] = in[threadIdx.x + i * n];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < N; ++i) out[threadIdx.x + i * n] = values[i] * values[(7 * i) % N] + values[N - 1 - i];
}
}  // namespace
void launch(float* x) {
  shuffle<8><<<1, 1024>>>(x, x, 3);
  shuffle<128><<<1, 1024>>>(x, x, 3);
}
}  // namespace legato
"""

TARGETS = 'targets = ["sm_80", "sm_90a", "compute_90"]\n'
REPORT = {
    ("warp", "sm_80"): {"pull<float>": Usage(registers=30, shared=128), "pull<double>": Usage(registers=41)},
    ("warp", "sm_90a"): {"pull<float>": Usage(registers=33), "pull<double>": Usage(registers=40)},
}

needs_nvcc = pytest.mark.skipif(cuda_toolkit.find_cuda_home() is None, reason="needs nvcc")


def test_ptxas_is_read() -> None:
    assert parse_ptxas(PTXAS) == {
        "_ZN6legato5scaleIfEEvPT_i": Usage(registers=12, shared=512),
        "_ZN6legato6spillsEPKfPfi": Usage(registers=32, spills=2196, stack=856),
        "caller": Usage(registers=40, shared=4096, spills=8, stack=64),  # with what it calls
    }
    assert parse_ptxas("") == {}


@pytest.mark.parametrize(
    ("demangled", "short"),
    [
        ("void legato::(anonymous namespace)::scale<float, 128>(float*, int)", "scale<float, 128>"),
        ("void legato::warp<c10::Half, (legato::Border)1>(legato::View<float>)", "warp<Half, (Border)1>"),
        ("legato::cuda::plain(int*)", "plain"),
        ("c_name", "c_name"),
    ],
)
def test_names_are_shortened(demangled: str, short: str) -> None:
    assert short_name(demangled) == short


def test_a_report_within_its_budget_passes() -> None:
    wide = {"warp": {"pull": Limit(registers=48, shared=128)}}
    narrow = {"warp": {"pull": Limit(registers=33, shared=128), "pull<d*>": Limit(registers=41)}}
    assert judge(REPORT, wide) == judge(REPORT, narrow) == []


def test_what_is_over_budget_is_told_for_each_target() -> None:
    assert judge(REPORT, {"warp": {"pull": Limit(registers=40)}}) == [
        "warp.cu: pull<float> for sm_80: shared 128, budget 0",
        "warp.cu: pull<double> for sm_80: registers 41, budget 40",
    ]


def test_kernels_and_entries_belong_together() -> None:
    assert judge(REPORT, {}) == [
        'warp.cu: pull<*double*> has no entry in [warp]: add `"pull<*double*>" = { registers = 48 }`',
        "warp.cu: pull has no entry in [warp]: add `pull = { registers = 40, shared = 128 }`",
    ]
    limit = Limit(registers=64, shared=128)
    stale = {"warp": {"pull": limit, "pull<f*>": limit, "pull<d*>": limit}, "gone": {"kernel": limit}}
    lines = ["warp.cu has no kernel pull: take its entry out of [warp]"]
    assert judge(REPORT, stale, whole=False) == lines
    assert judge(REPORT, stale) == [*lines, "gone.cu has no kernel kernel: take its entry out of [gone]"]


def test_a_proposal_keeps_patterns_and_grants_no_local_memory(tmp_path: Path) -> None:
    kernels = {"pull<float>": Usage(30, 128, 8, 16), "pull<half>": Usage(17), "pull<double>": Usage(41, 0, 8, 16)}
    spilling = {("warp", "sm_80"): kernels, ("launcher", "sm_80"): {}}
    old = {"warp": {"pull<f*>": Limit(24, 0, 4, 4, why="an array is indexed")}}
    file = tmp_path / "budget.toml"
    file.write_text(propose(spilling, old))
    assert read_budget(file) == {
        "warp": {
            "pull": Limit(24),
            "pull<*double*>": Limit(48),
            "pull<f*>": Limit(32, 128, 4, 4, why="an array is indexed"),
        }
    }


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ("{ shared = 1 }", "needs registers"),
        ("{ registers = 1, spill = 2 }", "spill"),
        ("{ registers = 1, stack = 8 }", "why"),
    ],
)
def test_a_wrong_entry_is_refused(tmp_path: Path, entry: str, complaint: str) -> None:
    (tmp_path / "budget.toml").write_text(f"{TARGETS}[warp]\npull = {entry}\n")
    with pytest.raises(CheckError, match=rf"\[warp\] pull.*{complaint}"):
        read_budget(tmp_path / "budget.toml")


def test_without_nvcc_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(check_cuda, "find_cuda_home", lambda: None)
    assert check_cuda.main([]) == 0
    assert capsys.readouterr().out == "CUDA kernels: skipped: no nvcc\n"


@needs_nvcc
def test_a_spilling_kernel_is_caught_and_results_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the source to the message, twice: the second time out of the cache, the third after a change."""
    path, cache, source = tmp_path / "budget.toml", tmp_path / "cache.json", tmp_path / "sample.cu"
    path.write_text(TARGETS + "[sample]\nshuffle = { registers = 64 }\n")
    source.write_text(SPILLING)
    for _ in range(2):
        assert check_cuda.main([], path=path, cache=cache) == 1
        told = capsys.readouterr().err
        for target in ("sm_80", "sm_90a", "compute_90"):
            assert f"sample.cu: shuffle<128> for {target}: spills " in told
        assert "shuffle<8>" not in told
    source.write_text(SPILLING.replace("<128>", "<16>"))
    assert check_cuda.main([], path=path, cache=cache) == 0
    assert "2 in 1 files for sm_80, sm_90a, compute_90, all within budget (3 compilations" in capsys.readouterr().out
    assert check_cuda.main(["--list"], path=path, cache=cache) == 0
    assert "(0 compilations" in capsys.readouterr().out


@needs_nvcc
def test_what_does_not_compile_is_told_with_the_words_of_the_compiler(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "budget.toml").write_text('targets = ["sm_80"]\n')
    for text, words in (("__global__ void k(int* x) { y = 1; }", "identifier"), ("void f() { int unused; }", "unused")):
        (tmp_path / "sample.cu").write_text(text + "\n")
        assert check_cuda.main([], path=tmp_path / "budget.toml", cache=tmp_path / "cache.json") == 1
        told = capsys.readouterr().err
        assert "sample.cu does not compile for sm_80" in told
        assert words in told
