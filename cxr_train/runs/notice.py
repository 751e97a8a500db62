"""What every command says at its end, and every file of predictions."""

NOTICE = "Research software: nothing here is a diagnosis."
