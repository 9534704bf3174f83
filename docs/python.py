"""Trains a network, loads it again and lets it predict: what the command fastconv does, in Python.

It runs as it stands, in less than a minute, and leaves a run folder and the picture `new.png`.
"""

import fastconv
from fastconv.training import Settings, load_checkpoint, predict, train

# With pictures of your own: data="photos", a folder with a sub-folder of pictures for each class.
# Every setting is an option of `fastconv train`, and its --help says what each does.
metrics = train(Settings(data="fashion-mnist", image_size=28, epochs=1, lr=0.02))
print(f"{metrics['run']}: {metrics['test']['accuracy']:.1%} of the test images are right")

# A picture to ask about, out of the test images. Any image file will do.
test = fastconv.data.load(image_size=28, parts=("test",)).parts["test"]
test.frame(0).save("new.png")

model, description = load_checkpoint(metrics["run"])  # a run folder, or a file of weights
probabilities = predict(model, "new.png", description.preprocessing)  # float [classes]
best = int(probabilities.argmax())
print(f"new.png: {description.classes[best]} {probabilities[best]:.1%}")
