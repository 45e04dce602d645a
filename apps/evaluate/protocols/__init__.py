"""What is measured on which pictures: one file for each kind of evaluation."""
