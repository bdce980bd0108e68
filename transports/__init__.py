"""The doors. Siblings never import each other; what two of them speak lies beside them."""
