"""`python -m tools.index_tfrecords`, from a checkout."""

from cxr_data.commands.index_tfrecords import console_main

if __name__ == "__main__":
    console_main()
