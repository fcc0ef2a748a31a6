def dictionary():
    return {}
