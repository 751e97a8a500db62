"""`python -m tools.audit_dataset`, from a checkout."""

from cxr_data.commands.audit_dataset import console_main

if __name__ == "__main__":
    console_main()
