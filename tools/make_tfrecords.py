"""`python -m tools.make_tfrecords`, from a checkout."""

from cxr_data.commands.make_tfrecords import console_main

if __name__ == "__main__":
    console_main()
