"""Start of the installer. Any Python 3 must be able to read this file, so its syntax is old."""

import os
import sys

MINIMUM = (3, 11)


def main():  # type: () -> int
    if sys.version_info < MINIMUM:
        sys.stderr.write(
            "error: Foundry needs Python 3.11 or newer and this is {}.{}: install python3.11 "
            "(apt-get install python3.11, dnf install python3.11, brew install python@3.11) and run"
            " the command again\n".format(*sys.version_info)
        )
        return 2
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from foundry.install.installer import main as install

    return install(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
