"""The command `needle`: train a network, ask it about images, let it write, see what it runs on.

main           the command line: which job to do, and errors as one line
options        from words to settings, of every command
train_options  the same of `needle train`, and what a resumed run may change
grammar        the parser, and values as they are written
settings       what may be asked of each command
printing       what is printed, wherever it goes
train          the training job
task           what a recipe is to the loop and to the run folder
fit            the loop over rounds and batches
checkpoint     all that it takes to go on
recipes/       what can be trained, with its options: linear layers, CIFAR-10, words, characters
datasets       the examples: digits, MNIST, a file of the user's
npz            that file, checked
run_folder     what a training job leaves behind
plots          its pictures
predict        a trained network on image files
generate       a trained language model writes on
info           versions, devices, the processor
"""
