def prepare(config):
    return config
