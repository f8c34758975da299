"""The notebooks run from top to bottom on a study's files and hold no outputs in the repository."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parents[3] / "notebooks"


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Runs a notebook on a directory, in this interpreter's kernel and away from the user's Jupyter folders."""
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    # The other is ipykernel's own, on the first releases of Python 3.12.
    monkeypatch.setenv("PYTHONWARNINGS", "error,ignore:There is no current event loop:DeprecationWarning")

    def run(name: str, study: Path):
        monkeypatch.setenv("VIDGN_STUDY", str(study))
        notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
        NotebookClient(
            notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": NOTEBOOKS}}
        ).execute()
        return notebook

    return run


def outputs_of(notebook, kind: str) -> list:
    return [
        o["data"][kind] for c in notebook.cells if c.cell_type == "code" for o in c.outputs if kind in o.get("data", {})
    ]


def test_gap_notebook(demo, execute):
    notebook = execute("gap.ipynb", demo.directory)
    text = "\n".join(outputs_of(notebook, "text/markdown"))
    assert "8 runs: 8 done" in text
    assert "gn − bn, 16 frames, 2 clips/GPU" in text
    assert "only baseline right" in text
    assert len(outputs_of(notebook, "image/png")) == 2
    assert not [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs if o.output_type == "stream"]


def test_memory_notebook(tmp_path, execute):
    header = (
        "model,norm,frames,clips_per_forward,precision,activation_memory,parameter_bytes,gradient_bytes,optimizer_bytes,"
        "saved_bytes,saved_bytes_per_clip,temporary_bytes,ddp_bytes,training_bytes,test_bytes,peak_bytes,measured_peak_bytes,"
        "measured_reserved_bytes,status"
    )
    gib = 1 << 30
    line = f"i3d_r50,bn,32,8,bf16,keep,{gib},0,0,{8 * gib},{gib},0,0,{9 * gib},{2 * gib},{9 * gib},,,ok"
    (tmp_path / "memory.csv").write_text(f"{header}\n{line}\n")
    notebook = execute("memory.ipynb", tmp_path)
    text = "\n".join(outputs_of(notebook, "text/markdown"))
    assert "The paper's columns" in text
    assert len(outputs_of(notebook, "image/png")) == 1
    fits = next(line for line in outputs_of(notebook, "text/markdown")[-1].splitlines() if line.startswith("| i3d_r50"))
    assert [c.strip() for c in fits[1:-1].split("|")][2:] == ["8", "12", "19", "33", "68"]  # (0.95 GB - GiB) less a GiB


@pytest.mark.parametrize("name", ["gap.ipynb", "memory.ipynb"])
def test_no_outputs_in_the_repository(name):
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    nbformat.validate(notebook)
    assert all(not c.outputs and c.execution_count is None for c in notebook.cells if c.cell_type == "code")
