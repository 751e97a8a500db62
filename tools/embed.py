"""`python -m tools.embed`, from a checkout."""

from cxr_train.embed import console_main

if __name__ == "__main__":
    console_main()
