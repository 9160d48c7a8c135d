"""What the kernel on Colab executes: the notebook's cells, until one fails."""

import json

from kaggleops.platforms.sign_in import KEY_FILE

KEY = f"content/{KEY_FILE}"
"""Where the bucket's key is uploaded to, below the runtime's root."""

_SCRIPT = """
import json, os
from pathlib import Path

key = Path(os.environ.get("KAGGLEOPS_ROOT", "/"), {key!r})
key.chmod(0o600)
os.environ["GOOGLE_APPLICATION_CREDENTIALS"] = str(key)
outcome = "done"
for source in json.loads({cells!r}):
    if not get_ipython().run_cell(source).success:
        outcome = "failed"
        break
print({nonce!r}, outcome, flush=True)
"""


def script_of(notebook: str, nonce: str) -> str:
    """Return the Python that executes a notebook and says in its last line how that ended.

    The CLI goes on behind a cell that failed, and its exit code does not tell.

    Args:
        notebook: its JSON.
        nonce: what stands in that line, before `done` or `failed`.
    """
    cells = [cell for cell in json.loads(notebook)["cells"] if cell["cell_type"] == "code"]
    sources = json.dumps(["".join(cell["source"]) for cell in cells])
    return _SCRIPT.format(key=KEY, cells=sources, nonce=nonce)
