"""The per-class metrics, by the names that files, flags and tables have for them."""

# In the order in which tables show them.
RATES = ("one_vs_rest_accuracy", "sensitivity", "specificity", "precision", "f1")
RANKINGS = ("auroc", "auprc")
