"""`python -m tools.verify_tfrecords`, from a checkout."""

from cxr_data.commands.verify_tfrecords import console_main

if __name__ == "__main__":
    console_main()
