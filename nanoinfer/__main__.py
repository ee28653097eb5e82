"""python -m nanoinfer"""

import sys

if __name__ == "__main__":
    try:
        from .cli import main

        code = main()
    except KeyboardInterrupt:  # before main could handle it
        code = 130
    sys.exit(code)
