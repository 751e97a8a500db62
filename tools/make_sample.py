"""`python -m tools.make_sample`, from a checkout."""

from cxr_data.commands.make_sample import console_main

if __name__ == "__main__":
    console_main()
