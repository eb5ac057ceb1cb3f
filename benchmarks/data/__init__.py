"""What is trained on: data sets, and objectives given by a formula."""
