"""The programs that Trivium is measured beside, each as its library's own documentation would write it."""
