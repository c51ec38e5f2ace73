// A device as Azure's documentation has it: the official SDK, unmodified, with a
// certificate and its chain. Usage: node device.js HOST DEVICE-ID FOLDER CA-FILE
'use strict';
const fs = require('fs');
const path = require('path');
const { Client, Message } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');

const [host, id, folder, ca] = process.argv.slice(2);

async function main() {
  const client = Client.fromConnectionString(`HostName=${host};DeviceId=${id};x509=true`, Mqtt);
  await client.setOptions({
    cert: fs.readFileSync(path.join(folder, 'chain.pem'), 'utf8'),
    key: fs.readFileSync(path.join(folder, 'device.key'), 'utf8'),
    ca, // the path of a file
  });
  await client.open();
  const message = new Message(JSON.stringify({ temperature: 21.5 }));
  message.contentType = 'application/json';
  message.contentEncoding = 'utf-8';
  message.messageId = 'm-1';
  message.properties.add('alarm', 'a&b/c=d e+f');
  await client.sendEvent(message);
  console.log('sent: acknowledged, hence on disk');
  await client.close();
}

main().catch((err) => {
  console.log(`${err.name}: ${err.message}`);
  process.exit(1);
});
