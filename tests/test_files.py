"""Files are the same wherever they are written."""

import os
import subprocess
import sys


def test_text_is_utf_8_in_every_locale(tmp_path):
    file = tmp_path / "a.txt"
    program = "import sys; from gvit.files import write_text; write_text(sys.argv[1], 'caf\\xe9')"
    plain = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", program, file], check=True, env=plain)
    assert file.read_bytes() == "caf\xe9".encode()
