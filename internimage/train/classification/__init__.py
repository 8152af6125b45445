"""Classification as a task of the loop: pictures, model, loss, measures, and the files that come out."""
