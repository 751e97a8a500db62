"""`python -m tools.data_service`, from a checkout."""

from cxr_data.commands.data_service import console_main

if __name__ == "__main__":
    console_main()
