"""The command `needle`: train a network, ask it about images, see what it runs on.

main        the command line: which job to do, and errors as one line
options     its grammar: from words to settings
settings    what may be asked for, and the defaults
datasets    the examples: digits, MNIST, a file of the user's
npz         that file, checked
train       the training job
fit         the loop over epochs and batches
run_folder  what a training job leaves behind
plots       its pictures
predict     a trained network on image files
info        versions, devices, the processor
"""
