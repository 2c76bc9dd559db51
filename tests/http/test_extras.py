"""The error for a package that is missing."""

import subprocess
import sys


def test_missing_h11_names_the_extra():
    program = "import sys; sys.modules['h11'] = None; import reactor.http"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == (
        "ImportError: reactor.http needs h11: pip install 'selectors-reactor[http]', "
        "or in a checkout pip install -e '.[http]'"
    )
